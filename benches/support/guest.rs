//! What a bare VMM command needs of its user: the orders for its guest, as a daemon would give them.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Child;
use std::time::{SystemTime, UNIX_EPOCH};

use sandpen_guest::protocol::{
    FrameReader, Garbage, GuestMessage, HostMessage, Network, PowerOff, RootfsSource, Start, encode,
};

/// Gives the guest whose FIFOs are in `dir` its orders; returns at its first byte.
pub fn converse(dir: &Path, command: &[&str], rootfs: RootfsSource) -> Result<(), Box<dyn Error>> {
    let open = |name: &str| OpenOptions::new().read(true).write(true).open(dir.join(name));
    let (mut answers, mut orders, mut stdout) = (open("control.out")?, open("control.in")?, open("stdout.out")?);
    let mut frames = FrameReader::<GuestMessage>::new(Garbage::Refuse);
    let mut buffer = [0; 4096];
    while frames.next()?.is_none() {
        let count = answers.read(&mut buffer)?;
        if frames.push(&buffer[..count]) < count {
            return Err("the guest floods its control port".into());
        }
    }
    let start = Start {
        command: command.iter().map(|word| word.as_bytes().to_vec().into()).collect(),
        env: Vec::new(),
        workdir: None,
        hostname: "bench".into(),
        stdin: false,
        rootfs,
        wall_clock: SystemTime::now().duration_since(UNIX_EPOCH)?,
        entropy: [[7; 32]; 2],
        power_off: PowerOff::Reset,
        terminal: None,
        volumes: Vec::new(),
        rlimits: Vec::new(),
        network: Network::Loopback,
        resolv_conf: None,
    };
    orders.write_all(&encode(&HostMessage::Start(Box::new(start)))?)?;
    stdout.read_exact(&mut [0])?;
    Ok(())
}

/// Ends a process of ours.
pub fn end(child: &mut Child) -> Result<(), Box<dyn Error>> {
    // Gone already is as good.
    let _ = child.kill();
    child.wait()?;
    Ok(())
}
