//! What a specification can ask for, as a table: the same rows are run with every driver.

/// One row: `sandpen run ARGS ROOTFS -- sh -c SCRIPT`.
pub struct Feature {
    /// What it is about.
    pub name: &'static str,
    /// Arguments before the root directory; `DIR` stands for an empty directory of the host.
    pub args: &'static [&'static str],
    /// What the workload's shell executes.
    pub script: &'static str,
    /// What it gets on standard input.
    pub stdin: Option<&'static str>,
    /// What it must print on standard output.
    pub stdout: &'static str,
    /// What it must print on standard error; `None` where sandpen may have something to say, too.
    pub stderr: Option<&'static str>,
    /// The exit code of `sandpen run`.
    pub code: i32,
}

/// A row that prints `stdout` and ends with 0.
const fn prints(
    name: &'static str,
    args: &'static [&'static str],
    script: &'static str,
    stdout: &'static str,
) -> Feature {
    Feature { name, args, script, stdin: None, stdout, stderr: Some(""), code: 0 }
}

impl Feature {
    /// The arguments of `sandpen` for a driver.
    pub fn argv(&self, driver: &str, dir: &str, rootfs: &str) -> Vec<String> {
        let args = self.args.iter().map(|arg| arg.replace("DIR", dir).replace("LONG", &"x".repeat(4096)));
        let before = ["run", "--rm", "--driver", driver].into_iter().map(str::to_owned);
        let after = [rootfs, "--", "sh", "-c", self.script].into_iter().map(str::to_owned);
        before.chain(args).chain(after).collect()
    }

    /// Whether a run ended as it must.
    pub fn agrees(&self, code: Option<i32>, stdout: &[u8], stderr: &[u8]) -> bool {
        code == Some(self.code)
            && stdout == self.stdout.as_bytes()
            && self.stderr.is_none_or(|expected| stderr == expected.as_bytes())
    }
}

/// Every feature that shows in one run of one sandbox. `LONG` in arguments is a value of 4 KiB.
pub const FEATURES: &[Feature] = &[
    Feature {
        name: "streams and exit code",
        args: &[],
        script: "echo out; echo err >&2; exit 42",
        stdin: None,
        stdout: "out\n",
        stderr: Some("err\n"),
        code: 42,
    },
    Feature { stderr: None, code: 137, ..prints("signal", &[], "kill -9 $$", "") },
    Feature {
        stdin: Some("some input\nwithout an end of line"),
        ..prints("standard input", &["-i"], "cat; echo; echo end", "some input\nwithout an end of line\nend\n")
    },
    prints("no standard input", &[], "cat; echo end", "end\n"),
    prints(
        "environment",
        &["-e", "A=two words \"quoted\" 'twice' -- init=/bad\nnext line", "-e", "B=LONG"],
        "printf '%s|' \"$A\" ${#B}; grep -qE 'bad|xxx|next' /proc/cmdline || echo clean",
        "two words \"quoted\" 'twice' -- init=/bad\nnext line|4096|clean\n",
    ),
    prints("working directory", &["-w", "/tmp"], "pwd; grep -q tmp /proc/cmdline || echo clean", "/tmp\nclean\n"),
    prints("processors", &["--cpus", "2"], "grep -c ^processor /proc/cpuinfo", "2\n"),
    prints(
        "memory",
        &["--memory", "384M"],
        "kib=$(sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo); \
         if [ $kib -gt 300000 ] && [ $kib -le 425000 ]; then echo fits; else echo $kib KiB; fi",
        "fits\n",
    ),
    prints("volume", &["-v", "DIR:/data"], "echo kept > /data/file; cat /data/*; ls /data", "kept\nfile\n"),
    prints("volume to read", &["-v", "DIR:/data:ro"], "touch /data/file 2>/dev/null || echo refused", "refused\n"),
    prints("limit", &["--rlimit", "nofile=500:600"], "ulimit -n; ulimit -Hn", "500\n600\n"),
    prints(
        "disk",
        &["--disk", "32M"],
        "dd if=/dev/zero of=/fill bs=1M count=64 2>/dev/null || echo full; rm /fill; echo x >/file; cat /file",
        "full\nx\n",
    ),
    prints("layers", &["--overlay", "DIR"], "echo x >/bin/new && cat /bin/new; ls -d /bin/sh", "x\n/bin/sh\n"),
    prints(
        "root image",
        &["--root", "image", "--overlay", "DIR"],
        "echo x >/bin/new && cat /bin/new; ls -d /bin/sh; grep -c virtiofs /proc/mounts; true",
        "x\n/bin/sh\n0\n",
    ),
    prints("no network", &[], "ls /sys/class/net | grep -v dummy; cat /proc/net/route | wc -l", "lo\n1\n"),
];

/// A shell script that runs a row with libkrun; [`failure`] reads what it prints.
pub fn script(number: usize) -> String {
    let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
    let feature = &FEATURES[number];
    let argv = feature.argv("krun", "/root/dir", "/root/inner");
    let command = argv.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    let stdin = quoted(feature.stdin.unwrap_or_default());
    format!(
        "hex() {{ printf x; od -v -An -tx1 $1 | tr -d ' \\n'; }}\nmkdir -p /root/dir\n\
         printf %s {stdin} | sandpen {command} >/root/out 2>/root/err\n\
         echo \"result $? $(hex /root/out) $(hex /root/err)\"\nrm -r /root/dir\n"
    )
}

/// Why a row ended otherwise than it must, by what its script printed.
pub fn failure(number: usize, lines: &[&str]) -> Option<String> {
    let bytes = |hex: &str| -> Vec<u8> {
        let digits = hex.trim_start_matches('x').as_bytes();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(pair).collect()
    };
    let feature = &FEATURES[number];
    let line = lines.iter().find_map(|line| line.strip_prefix("result ")).unwrap_or_default();
    let words: Vec<&str> = line.split(' ').collect();
    let [code, stdout, stderr] = words[..] else { return Some(format!("{}: no result {line:?}", feature.name)) };
    let (stdout, stderr) = (bytes(stdout), bytes(stderr));
    if feature.agrees(code.parse().ok(), &stdout, &stderr) {
        return None;
    }
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    Some(format!("{} with krun: code {code}\n--- stdout\n{out}\n--- stderr\n{err}", feature.name))
}
