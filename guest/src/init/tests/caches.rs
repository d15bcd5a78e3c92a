//! What the host's files cost it, and how the guest forgets them.

use sandpen_guest::protocol::{DROP_CACHES, FILES_LIMIT_MET};

use super::*;

impl Host {
    fn switched(&self) -> String {
        fs::read_to_string(self.dir.0.join(SWITCH)).unwrap()
    }

    /// Waits until the guest has looked at all of its ports.
    fn looked(&mut self) {
        self.send(&HostMessage::Query { nonce: 1 });
        assert_eq!(self.receive(), UNDERSTANDS);
        assert!(matches!(self.receive(), GuestMessage::Status { .. }));
    }

    fn forgets(&mut self) {
        fs::write(self.dir.0.join(SWITCH), "").unwrap();
        self.files.write_all(&[DROP_CACHES]).unwrap();
        while self.switched() != "2" {
            self.looked();
        }
    }
}

#[test]
fn files_are_forgotten_when_the_host_asks_for_it() {
    let mut host = Host::boot();
    assert_eq!(host.switched(), "4", "the kernel's log has no line for each time");
    host.files.write_all(&[0, 0xFF, b'x']).unwrap();
    host.looked();
    assert_eq!(host.switched(), "4", "bytes without a meaning mean nothing");
    host.files.write_all(&[DROP_CACHES; 1000]).unwrap();
    host.forgets();
    // While no workload runs nobody is told of a limit.
    host.files.write_all(&[FILES_LIMIT_MET]).unwrap();
    host.forgets();
    host.start(&["sh", "-c", "read line; echo $line"], |start| start.stdin = true);
    assert_eq!(host.receive(), GuestMessage::Started);
    host.forgets();
    host.files.write_all(&[FILES_LIMIT_MET; 3]).unwrap();
    assert_eq!(host.receive(), GuestMessage::FilesLimitMet);
    host.files.write_all(&[FILES_LIMIT_MET]).unwrap();
    host.forgets();
    let line = StdinMessage::Bytes(Bytes::from(b"on\n".to_vec()));
    host.stdin.write_all(&encode(&line).unwrap()).unwrap();
    host.exit();
    assert_eq!(host.finish().0, "on\n");
}
