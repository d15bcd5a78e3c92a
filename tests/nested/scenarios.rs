//! What is done in the emulated machine, and what must come of it.

use crate::support::features;

/// Fails on lines that are not what they must be.
pub type Check = Box<dyn Fn(&[&str])>;

/// Something to do in the emulated machine, and what its output must be.
pub struct Scenario {
    pub name: String,
    pub script: String,
    pub check: Check,
}

/// A scenario whose check is `check`; `"` and `$` are the shell's.
fn scenario(name: &str, script: &str, check: impl Fn(&[&str]) + 'static) -> Scenario {
    Scenario { name: name.replace(' ', "-"), script: script.to_owned(), check: Box::new(check) }
}

/// Everything but the table of features.
#[allow(clippy::too_many_lines, reason = "a list")]
pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario(
            "doctor",
            r#"
sandpen doctor --json | grep '"auto"'
"#,
            |lines| assert_eq!(lines, [r#"  "auto": "krun","#]),
        ),
        scenario(
            "streams",
            r#"
sandpen run -n a /root/inner -- sh -c 'echo out; echo err >&2; echo made > /made; exit 42' 2>/root/err
echo "code $?; $(cat /root/err); $(cat /root/inner/made); $(ls /root/inner)"
sandpen inspect a | grep -E '"(state|driver|exit_code)"' | head -3
"#,
            |lines| {
                assert_eq!(lines[0], "out");
                let (line, files) = lines[1].split_once("made; ").unwrap();
                assert_eq!(line, "code 42; err; ");
                assert!(!files.contains("init.krun"), "{files}");
                let text = lines.join("\n");
                assert!(text.contains(r#""driver": "krun""#) && text.contains(r#""state": "STOPPED""#), "{text}");
            },
        ),
        scenario(
            "secrets",
            r#"
sandpen run -e 'TOKEN=s3cret" init=/bad' -w '/tmp' /root/inner -- sh -c 'pwd; echo "$TOKEN"; cat /proc/cmdline; ls /sys/class/net'
"#,
            |lines| {
                assert_eq!(lines[..2], ["/tmp", "s3cret\" init=/bad"]);
                assert!(!lines[2].contains("s3cret") && !lines[2].contains("bad"), "{}", lines[2]);
                assert!(lines[3..].iter().all(|device| ["dummy0", "lo"].contains(device)), "no network: {lines:?}");
            },
        ),
        scenario(
            "stdin",
            r#"
head -c 100000 /bin/busybox > /root/data
sandpen run -i /root/inner -- cat < /root/data | cmp - /root/data && echo same
"#,
            |lines| assert_eq!(lines, ["same"]),
        ),
        scenario(
            "bytes",
            r#"
head -c 8388608 /dev/urandom > /root/inner/data
sandpen run -n bytes /root/inner -- cat /data 2>/root/err | cmp - /root/inner/data && echo same ||
    { cat /root/err; sandpen logs --vmm bytes; }
sandpen logs bytes | cmp - /root/inner/data && echo same
rm /root/inner/data
"#,
            |lines| assert_eq!(lines, ["same", "same"]),
        ),
        scenario(
            "terminal",
            r#"
sandpen run -t -e TERM=dumb /root/inner -- sh -c 'tty; stty size; echo err >&2; exit 4' 2>/dev/null | tr '\r' '#'
sandpen run -dt -n t /root/inner -- sh -c '[ -t 0 ] && echo on a terminal; exit 6' >/dev/null
echo "code $(sandpen wait t); $(sandpen logs t | tr -d '\r')"
"#,
            |lines| assert_eq!(lines, ["/dev/pts/0#", "24 80#", "err#", "code 6; on a terminal"]),
        ),
        scenario(
            "bare root",
            r#"
mkdir -p /root/bare/bin
cp /inner/bin/busybox /root/bare/bin/busybox
sandpen run /root/bare -- /bin/busybox echo no directories needed
echo "code $?"
"#,
            |lines| assert_eq!(lines, ["no directories needed", "code 0"]),
        ),
        scenario(
            "not found",
            r#"
sandpen run /root/inner -- nope 2>/dev/null
echo "code $?"
"#,
            |lines| assert_eq!(lines, ["code 127"]),
        ),
        scenario(
            "own kernel",
            r#"
# With a daemon that finds no libkrunfw.
sandpen shutdown
export SANDPEN_KRUNFW=
sandpen run --driver krun /root/inner -- true 2>&1 | grep -o 'kernel install --krunfw'
sandpen run -n own --driver krun --kernel /own-kernel --disk 32M /root/inner -- sh -c '
    cat /proc/modules 2>/dev/null | wc -l; echo kept > /file; cat /file; exit 42'
echo "code $?"
sandpen inspect own | grep '"kernel"'
sandpen rm own >/dev/null
sandpen shutdown
"#,
            |lines| {
                assert_eq!(lines[..2], ["kernel install --krunfw", "0"]);
                assert_eq!(lines[2..], ["kept", "code 42", r#"  "kernel": "/own-kernel","#]);
            },
        ),
        scenario(
            "volumes",
            r#"
mkdir -p "/root/v,1:x" /root/ro && echo kept > /root/ro/file
sandpen run -v "/root/v,1:x:/data" -v /root/ro:/data/ro:ro /root/inner -- sh -c '
    echo out > /data/out; mount -o remount,rw /data/ro && echo remounted
    echo x > /data/ro/new; rm /data/ro/file; chmod 777 /data/ro/file; cat /data/ro/file' 2>/dev/null
echo "$(cat /root/v,1:x/out) $(ls /root/ro) $(stat -c %a /root/ro/file)"
"#,
            |lines| assert_eq!(lines, ["remounted", "kept", "out file 644"]),
        ),
        scenario(
            "layers",
            r#"
mkdir -p /root/top/etc && echo top > /root/top/etc/both && echo base > /root/inner/etc/both
sandpen run -n o --overlay /root/top --disk 16M /root/inner -- sh -c '
    cat /etc/both; echo mine > /etc/both; rm -r /root; dd if=/dev/zero of=/fill 2>&1 | grep -o "No space.*"; rm /fill; cat /etc/both'
echo "$? $(echo $(cat /root/top/etc/both /root/inner/etc/both)) $(ls -d /root/inner/root) $(ls /root/state/disks/sandbox/default)"
sandpen run --rm --keep-disk k /root/inner -- sh -c 'echo kept > /etc/k' && sandpen run --rm --keep-disk k /root/inner -- cat /etc/k
sandpen rm o; sandpen disk ls --json | grep '"name"'; ls /root/state/disks/sandbox/default
"#,
            |lines| {
                let mine = ["top", "No space left on device", "mine", "0 top base /root/inner/root o.img"];
                assert_eq!(lines, [&mine[..], &["kept", "o", r#"    "name": "k","#]].concat());
            },
        ),
        scenario(
            "image",
            r#"
sandpen image import /root/inner inner:1 >/dev/null
sandpen run -n i --disk 16M inner:1 -- sh -c '
    sha256sum < /bin/busybox; cat /sys/block/vd*/ro | sort | tail -n 1; rm /bin/ls; echo made > /made; cat /made; exit 42'
echo "code $?"
sha256sum < /root/inner/bin/busybox
sandpen run -n j --read-only inner:1 -- sh -c 'echo no > /made || echo refused; test -e /bin/ls && echo as it was' 2>/dev/null
sandpen image rm inner:1 2>&1 | grep -c 'in use'
sandpen rm i j >/dev/null; sandpen image rm inner:1 >/dev/null; sandpen image ls -q | wc -l
"#,
            |lines| {
                let [sum, read_only, made, code, again, rest @ ..] = lines else { panic!("{lines:?}") };
                assert_eq!((sum, *read_only, *made, *code), (again, "1", "made", "code 42"), "{lines:?}");
                assert_eq!(rest, ["refused", "as it was", "1", "0"], "{lines:?}");
            },
        ),
        scenario(
            "network",
            r#"
mkdir /root/inner/www /root/www && echo from the guest > /root/inner/www/page && echo from the host > /root/www/page
httpd -p 127.0.0.1:7000 -h /root/www
# busybox's wget, linked statically, crashes where it looks up an address.
page() { printf 'GET /page HTTP/1.0\r\n\r\n' | nc -w 9 127.0.0.1 $1 2>/dev/null | grep '^from'; }
sandpen run -d -n w --net tsi -p 8080:80 --rlimit nofile=3000:4000 --rlimit core=0 /root/inner -- sh -c '
    ulimit -n; ulimit -Hn; ulimit -c; printf "GET /page HTTP/1.0\r\n\r\n" | nc -w 9 127.0.0.1 7000 | grep "^from"
    exec httpd -f -p 127.0.0.1:80 -h /www' >/dev/null
for i in $(seq 60); do page 8080 && break; sleep 1; done
sandpen logs w
sandpen run --net tsi -p 7000:80 /root/inner -- true 2>&1 | grep -o 'port 7000 of [0-9.]*'
sandpen run --net on -p 127.0.0.1:8081:80 /root/inner -- true 2>&1 | grep -o -e '--driver qemu'
sandpen run --driver krun -p 8081:80 /root/inner -- true 2>&1 | grep -o -e '--net tsi'
sandpen run -p 8081:80 /root/inner -- true 2>&1 | grep -o -e '--net tsi'
sandpen run /root/inner -- nc -w 9 127.0.0.1 7000 </dev/null 2>/dev/null || echo no way out
sandpen kill w >/dev/null
"#,
            |lines| {
                let network = ["from the guest", "3000", "4000", "0", "from the host"];
                let refusals = ["port 7000 of 0.0.0.0", "--driver qemu", "--net tsi", "--net tsi", "no way out"];
                assert_eq!(lines, [&network[..], &refusals].concat());
            },
        ),
        scenario(
            "stop",
            r#"
sandpen run -d -n s /root/inner -- sh -c 'trap "echo asked; exit 5" TERM; echo ready; while :; do sleep 1; done' >/dev/null
for i in $(seq 100); do sandpen logs s | grep -q ready && break; sleep 1; done
sandpen stop s >/dev/null
sandpen logs s
sandpen inspect s | grep '"exit_code"' | head -1
"#,
            |lines| {
                assert_eq!(lines[..2], ["ready", "asked"]);
                assert!(lines[2].contains("\"exit_code\": 5"), "{lines:?}");
            },
        ),
        scenario(
            "adopted",
            r#"
sandpen run -d -n d /root/inner -- sh -c 'for i in $(seq 60); do echo $i; sleep 0.1; done; exit 3' >/dev/null
sleep 2
kill -9 $(cat /root/state/daemon.lock)
echo "code $(sandpen wait d) $(sandpen logs d | md5sum)"
seq 60 | md5sum
"#,
            |lines| assert_eq!(lines[0], format!("code 3 {}", lines[1])),
        ),
        scenario(
            "sessions",
            r#"
sandpen run -d --idle -n box -e A=workload /root/inner >/dev/null
head -c 300000 /bin/busybox | sandpen exec -i -e B=own box -- sh -c 'echo $A $B >&2; md5sum; exit 3' 2>/root/err
echo "code $?; $(cat /root/err)"
head -c 300000 /bin/busybox | md5sum
id=$(sandpen exec -d box -- sh -c 'for i in $(seq 20); do echo $i; sleep 0.1; done; exit 4')
kill -9 $(cat /root/state/daemon.lock)
echo "$(sandpen attach --job $id box | md5sum) $(sandpen wait --job $id box)"
echo "$(seq 20 | md5sum) 4"
sandpen exec box -- nope 2>/dev/null
echo "code $?"
sandpen top box | grep -c sandpen-idle
sandpen rm -f box >/dev/null
"#,
            |lines| {
                let [sum, code, expected, numbers, counted, missing, idle] = lines else { panic!("{lines:?}") };
                assert_eq!((sum, *code, numbers), (expected, "code 3; workload own", counted), "{lines:?}");
                assert_eq!((*missing, *idle), ("code 127", "1"), "{lines:?}");
            },
        ),
        scenario(
            "reset",
            r#"
sandpen run -n p /root/inner -- sh -c 'echo before; reboot -f; sleep 100' 2>/dev/null
sandpen inspect p | grep '"state"' | head -1
"#,
            |lines| assert!(lines[0] == "before" && lines[1].contains("FAILED"), "{lines:?}"),
        ),
    ]
}

/// Every row of the table of features.
pub fn features() -> impl Iterator<Item = Scenario> {
    (0..features::FEATURES.len()).map(|number| {
        let check = move |lines: &[&str]| {
            let failure = features::failure(number, lines);
            assert!(failure.is_none(), "{}", failure.unwrap_or_default());
        };
        scenario(&format!("feature {number}"), &features::script(number), check)
    })
}
