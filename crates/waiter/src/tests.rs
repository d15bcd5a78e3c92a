//! What is written is read again, and what is damaged is refused.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use proptest::prelude::*;

use crate::process_identity::parse_start_time;
use crate::records::*;
use crate::wire::*;

fn os() -> impl Strategy<Value = OsString> {
    proptest::collection::vec(any::<u8>(), 0..40).prop_map(OsString::from_vec)
}

fn stdio() -> impl Strategy<Value = StdioSpec> {
    prop_oneof![
        Just(StdioSpec::Null),
        Just(StdioSpec::VmmLog),
        "[a-z.]{1,20}".prop_map(StdioSpec::Fifo),
        "[a-z.]{1,20}".prop_map(StdioSpec::Listener),
        any::<Vec<u8>>().prop_map(StdioSpec::Data),
    ]
}

fn descriptor() -> impl Strategy<Value = DescriptorSpec> {
    prop_oneof![
        "[a-z.]{1,20}".prop_map(DescriptorSpec::Connected),
        "[a-z.]{1,20}".prop_map(DescriptorSpec::Listening),
        os().prop_map(|path| DescriptorSpec::File(path.into())),
    ]
}

fn namespaces() -> impl Strategy<Value = Namespaces> {
    let user = proptest::option::of("/[a-z0-9/]{0,20}".prop_map(Into::into));
    (user, any::<bool>()).prop_map(|(user, network)| Namespaces { user, network })
}

prop_compose! {
    fn process()(
        role in "[a-z]{1,20}",
        (program, args) in (os(), proptest::collection::vec(os(), 0..5)),
        env in proptest::collection::vec((os(), os()), 0..5),
        clear_env: bool,
        (stdin, stdout, stderr) in (stdio(), stdio(), stdio()),
        descriptors in proptest::collection::vec(descriptor(), 0..3),
    ) -> ProcessSpec {
        ProcessSpec { role, program: program.into(), args, env, clear_env, stdin, stdout, stderr, descriptors }
    }
}

prop_compose! {
    fn spec()(
        tags in proptest::collection::vec("\\PC{0,20}", 0..3),
        fifos in proptest::collection::vec("\\PC{0,20}", 0..5),
        processes in proptest::collection::vec(process(), 0..4),
        namespaces in proptest::option::of(namespaces()),
        vmm_log in os(),
        vmm_log_limit: u64,
        leases in proptest::collection::vec(os().prop_map(Into::into), 0..3),
    ) -> WaiterSpec {
        let namespaces = namespaces.filter(|_| !processes.is_empty());
        WaiterSpec { tags, fifos, processes, namespaces, vmm_log: vmm_log.into(), vmm_log_limit, leases }
    }
}

proptest! {
    #[test]
    fn a_specification_comes_back_whole_or_not_at_all(spec in spec(), cut in any::<prop::sample::Index>()) {
        let bytes = encode(&spec).unwrap();
        prop_assert_eq!(read_spec(&mut bytes.as_slice()), Some(spec));
        prop_assert_eq!(read_spec(&mut &bytes[..cut.index(bytes.len())]), None);
    }

    #[test]
    fn bytes_of_anybody_do_no_harm(bytes: Vec<u8>, text: String) {
        let mut framed = b"SPWAIT2\n".to_vec();
        framed.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        framed.extend(&bytes);
        framed.extend(b"SPWEND1\n");
        let _ = read_spec(&mut framed.as_slice());
        prop_assert_eq!(read_spec(&mut bytes.as_slice()), None);
        let _ = (Report::from_line(&text), ProcessesRecord::from_text(&text), ExitRecord::from_text(&text));
        let _ = parse_start_time(&bytes);
    }

    #[test]
    fn an_exit_record_comes_back(kind in 0..3_usize, number: i32, at_micros: i64, lost in proptest::option::of("[a-z0-9_-]{1,32}")) {
        let end = [RecordedEnd::Code(number), RecordedEnd::Signal(number), RecordedEnd::Unknown][kind];
        let record = ExitRecord { end, at_micros, lost };
        let text = record.to_text();
        prop_assert_eq!(text.len(), EXIT_RECORD_BYTES);
        prop_assert_eq!(ExitRecord::from_text(&text), Some(record));
        // A draft that was never filled, or only in part.
        prop_assert_eq!(ExitRecord::from_text(&" ".repeat(EXIT_RECORD_BYTES)), None);
        prop_assert_eq!(ExitRecord::from_text(&text[..20]), None);
    }

    #[test]
    fn a_processes_record_comes_back(boot_id in "[0-9a-f-]{36}", processes in proptest::collection::vec(("[a-z]{1,20}", any::<u32>(), any::<u64>()), 0..5), cut in any::<prop::sample::Index>()) {
        let record = ProcessesRecord { boot_id, processes };
        let text = record.to_text();
        prop_assert_eq!(ProcessesRecord::from_text(&text[..cut.index(text.len())]), None);
        prop_assert_eq!(ProcessesRecord::from_text(&text), Some(record));
    }

    #[test]
    fn a_process_cannot_forge_its_start_time(name: Vec<u8>) {
        let mut stat = b"1 (".to_vec();
        stat.extend(name);
        stat.extend(b") S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 100 200");
        prop_assert_eq!(parse_start_time(&stat), Some(4242));
    }
}

/// What is held may be read by another version: its bytes stay.
#[test]
fn what_is_held_keeps_its_form() {
    let (tags, fifos) = (vec!["t".to_owned()], vec!["a.in".to_owned()]);
    let held = WaiterSpec {
        tags,
        fifos,
        processes: vec![],
        namespaces: None,
        vmm_log: "/l".into(),
        vmm_log_limit: 258,
        leases: vec![],
    };
    let bytes = b"SPWAIT2\n\x2b\0\0\0\x01\0\0\0\x01\0\0\0t\x01\0\0\0\x04\0\0\0a.in\x02\0\0\0/l\x08\0\0\0\x02\x01\0\0\0\0\0\0\0\0\0\0SPWEND1\n";
    assert_eq!(encode(&held).unwrap(), bytes);
    let leased = WaiterSpec { leases: vec!["/i".into()], ..held };
    let bytes = b"SPWAIT2\n\x35\0\0\0\x01\0\0\0\x01\0\0\0t\x01\0\0\0\x04\0\0\0a.in\x02\0\0\0/l\x08\0\0\0\x02\x01\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x02\0\0\0/iSPWEND1\n";
    assert_eq!(encode(&leased).unwrap(), bytes);
}

#[test]
fn reports_come_back() {
    let failed = Report::Failed { stage: Stage::Program, errno: 2, subject: "vmm".into() };
    for report in [Report::Ready, failed] {
        assert_eq!(Report::from_line(&report.to_line()), Some(report));
    }
    let strange = Report::Failed { stage: Stage::Fifo, errno: 0, subject: "a\tb\nc".into() };
    assert_eq!(strange.to_line(), "failed\tfifo\t0\ta?b?c\n");
    assert_eq!(Report::from_line("ready"), None, "cut short");
}
