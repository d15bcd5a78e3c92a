//! What a terminal needs of a link.

use super::*;

/// Everything that comes on the stdin port until the end of the input, frame by frame.
fn stdin_frames(mut guest: Guest) -> Vec<Vec<u8>> {
    let mut reader = FrameReader::<StdinMessage>::new(Garbage::Refuse);
    let mut frames = Vec::new();
    loop {
        match reader.next().unwrap() {
            Some(StdinMessage::Bytes(bytes)) => frames.push(bytes.into_vec()),
            Some(StdinMessage::End) => return frames,
            None => {
                let mut chunk = [0; 1000];
                let room = FrameReader::<StdinMessage>::CAPACITY - reader.buffered();
                let len = guest.stdin_in.read(&mut chunk[..room.min(1000)]).unwrap();
                assert_eq!(reader.push(&chunk[..len]), len);
            }
        }
    }
}

#[tokio::test]
async fn two_typists_interleave_by_whole_frames() {
    let mut running = launch(|guest| {
        guest.boot();
        guest.say(&GuestMessage::Started);
    });
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    let guest = (&mut running.guest).await.unwrap();
    let frames = tokio::task::spawn_blocking(move || stdin_frames(guest));
    let typist = |letter: u8| {
        let link = running.link.clone();
        tokio::spawn(async move {
            for count in 1..200_usize {
                link.write_stdin(&vec![letter; count * 37 % STDIN_CHUNK + 1]).await.unwrap();
            }
        })
    };
    for typist in [typist(b'a'), typist(b'b')] {
        timeout(LIMIT, typist).await.unwrap().unwrap();
    }
    running.link.close_stdin().await.unwrap();
    let frames = timeout(LIMIT, frames).await.unwrap().unwrap();
    for letter in [b'a', b'b'] {
        let of_one: Vec<_> = frames.iter().filter(|frame| frame[0] == letter).map(Vec::len).collect();
        assert!(of_one.into_iter().eq((1..200).map(|count| count * 37 % STDIN_CHUNK + 1)), "in order, none cut");
    }
    assert!(frames.iter().all(|frame| frame.iter().all(|byte| *byte == frame[0])), "none mixed");
}

#[tokio::test]
async fn sizes_arrive_before_and_after_the_start() {
    let mut spec = SandboxSpec::new(
        sandpen_types::spec::SandboxName::new("box").unwrap(),
        sandpen_types::spec::Rootfs::Native("/".into()),
        vec!["sh".into()],
    );
    spec.terminal = sandpen_types::spec::TerminalSize::new(1, 65535);
    let start = Box::new(start_message(&spec, RootfsSource::Current, PowerOff::Reset).unwrap());
    let mut running = begin(LinkMode::Launch(start), LIMIT, |guest| {
        assert_eq!(guest.hear(), HostMessage::Resize(TerminalSize { rows: 2, cols: 3 }));
        assert_eq!(guest.boot().terminal, Some(TerminalSize { rows: 1, cols: 65535 }));
        guest.say(&GuestMessage::Started);
        assert_eq!(guest.hear(), HostMessage::Resize(TerminalSize { rows: 4, cols: 5 }));
    });
    let size = |rows, cols| sandpen_types::spec::TerminalSize::new(rows, cols).unwrap();
    running.link.resize(size(2, 3)).await.unwrap();
    assert_eq!(running.event().await, VmmEvent::WorkloadStarted);
    running.link.resize(size(4, 5)).await.unwrap();
    timeout(LIMIT, running.guest).await.unwrap().unwrap();
}
