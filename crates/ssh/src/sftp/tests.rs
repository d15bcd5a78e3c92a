//! A client that is played here, with the files of a directory of this host.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use tokio::io::DuplexStream;

use super::*;
use crate::wire::{Reader, Writer};

/// A client, and the directory that it works in.
struct Client {
    stream: DuplexStream,
    dir: tempfile::TempDir,
    number: u32,
}

impl Client {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (files, carrier) = FilesClient::new();
        let (mut ours, mut theirs) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        std::thread::spawn(move || drop(sandpen_files::serve::serve(&mut ours.0, &mut theirs.1)));
        let carrier = Arc::new(carrier);
        let sending = carrier.clone();
        tokio::spawn(async move {
            while let Some(bytes) = sending.outgoing().await {
                std::io::Write::write_all(&mut ours.1, &bytes).unwrap();
            }
        });
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            loop {
                match std::io::Read::read(&mut theirs.0, &mut buffer).unwrap() {
                    0 => return,
                    count => carrier.received(&buffer[..count]).unwrap(),
                }
            }
        });
        let (stream, theirs) = tokio::io::duplex(1 << 20);
        let (input, output) = tokio::io::split(theirs);
        let home = dir.path().as_os_str().as_encoded_bytes().to_vec();
        tokio::spawn(serve(files, home, input, output));
        Self { stream, dir, number: 0 }
    }

    async fn send(&mut self, kind: u8, rest: Writer) {
        self.number += 1;
        let body = Writer::message(kind).u32(self.number).raw(&rest.done()).done();
        self.stream.write_all(&Writer::default().bytes(&body).done()).await.unwrap();
    }

    /// The kind and the rest of the next answer.
    async fn receive(&mut self, number: u32) -> (u8, Vec<u8>) {
        let len = self.stream.read_u32().await.unwrap();
        let mut packet = vec![0; len as usize];
        self.stream.read_exact(&mut packet).await.unwrap();
        assert_eq!(packet[1..5], number.to_be_bytes());
        (packet[0], packet[5..].to_vec())
    }

    async fn ask(&mut self, kind: u8, rest: Writer) -> (u8, Vec<u8>) {
        self.send(kind, rest).await;
        self.receive(self.number).await
    }

    /// The code of an answer that is a status.
    async fn status(&mut self, kind: u8, rest: Writer) -> u32 {
        let (kind, rest) = self.ask(kind, rest).await;
        assert_eq!(kind, 101, "{rest:?}");
        Reader::new(&rest).u32().unwrap()
    }

    async fn handle(&mut self, kind: u8, rest: Writer) -> Vec<u8> {
        let (kind, rest) = self.ask(kind, rest).await;
        assert_eq!(kind, 102, "{}", String::from_utf8_lossy(&rest));
        Reader::new(&rest).bytes().unwrap().to_vec()
    }
}

fn text(text: &str) -> Writer {
    Writer::default().bytes(text.as_bytes())
}

fn no_attributes(writer: Writer) -> Writer {
    writer.u32(0)
}

const WRITE_NEW: u32 = 2 | 8 | 16;

#[tokio::test]
async fn a_file_is_written_read_and_renamed() {
    let mut client = Client::new();
    let handle = client.handle(3, text("a").u32(WRITE_NEW).u32(4).u32(0o600)).await;
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    // All at once, of which one is larger than the guest takes.
    let begun = client.number;
    for (index, piece) in bytes.chunks(100_000).enumerate() {
        let offset = index as u64 * 100_000;
        client.send(6, Writer::default().bytes(&handle).u64(offset).bytes(piece)).await;
    }
    for number in begun + 1..=begun + 3 {
        let (kind, rest) = client.receive(number).await;
        assert_eq!((kind, Reader::new(&rest).u32()), (101, Ok(0)));
    }
    assert_eq!(client.status(4, Writer::default().bytes(&handle)).await, 0);
    let path = client.dir.path().join("a");
    assert!(fs::read(&path).unwrap() == bytes && fs::metadata(&path).unwrap().mode() & 0o777 == 0o600);
    let handle = client.handle(3, text("./a").u32(1).u32(0)).await;
    let begun = client.number;
    for index in 0..5_u64 {
        client.send(5, Writer::default().bytes(&handle).u64(index * 65_536).u32(65_536)).await;
    }
    let mut read = Vec::new();
    for number in begun + 1..=begun + 5 {
        let (kind, rest) = client.receive(number).await;
        assert_eq!(kind, 103);
        read.extend_from_slice(Reader::new(&rest).bytes().unwrap());
    }
    assert!(read == bytes);
    assert_eq!(client.status(5, Writer::default().bytes(&handle).u64(300_000).u32(1)).await, Code::Eof as u32);
    assert_eq!(client.status(4, Writer::default().bytes(&handle)).await, 0);
    assert_eq!(client.status(4, Writer::default().bytes(&handle)).await, Code::Failure as u32, "closed twice");
    assert_eq!(client.status(5, Writer::default().bytes(&handle).u64(0).u32(1)).await, Code::Failure as u32);
    fs::write(client.dir.path().join("b"), "before").unwrap();
    assert_eq!(client.status(18, text("a").bytes(b"b")).await, Code::Failure as u32, "it is there");
    assert_eq!(client.status(200, text("posix-rename@openssh.com").bytes(b"a").bytes(b"b")).await, 0);
    assert_eq!(fs::metadata(client.dir.path().join("b")).unwrap().len(), 300_000);
    assert_eq!(client.status(17, text("a")).await, Code::NoSuchFile as u32);
    assert_eq!(client.status(10, text("none").u32(0)).await, Code::Failure as u32);
    assert_eq!(client.status(9, text("b").u32(4).u32(0o100_640)).await, 0);
    assert_eq!(fs::metadata(client.dir.path().join("b")).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(client.status(13, text("b")).await, 0);
    assert_eq!(client.status(99, Writer::default()).await, Code::Unsupported as u32);
    assert_eq!(client.status(3, text("cut")).await, Code::BadMessage as u32);
}

#[tokio::test]
async fn directories_links_and_paths() {
    let mut client = Client::new();
    assert_eq!(client.status(14, no_attributes(text("dir"))).await, 0);
    for number in 0..250 {
        fs::write(client.dir.path().join(format!("dir/{number}")), "x").unwrap();
    }
    assert_eq!(client.status(20, text("../dir/7").bytes(b"dir/link")).await, 0);
    let handle = client.handle(11, text("dir")).await;
    let mut names = Vec::new();
    loop {
        let (kind, rest) = client.ask(12, Writer::default().bytes(&handle)).await;
        let mut reader = Reader::new(&rest);
        if kind == 101 {
            assert_eq!(reader.u32(), Ok(Code::Eof as u32));
            break;
        }
        for _ in 0..reader.u32().unwrap() {
            names.push(reader.text().unwrap().to_owned());
            assert!(reader.text().unwrap().ends_with(names.last().unwrap().as_str()));
            Attributes::read(&mut reader).unwrap();
        }
    }
    assert_eq!(client.status(4, Writer::default().bytes(&handle)).await, 0);
    assert_eq!(names.len(), 251);
    let path = async |client: &mut Client, kind: u8, rest: Writer| {
        let (kind, rest) = client.ask(kind, rest).await;
        assert_eq!(kind, 104, "{}", String::from_utf8_lossy(&rest));
        Reader::new(&rest[4..]).text().unwrap().to_owned()
    };
    assert_eq!(fs::metadata(client.dir.path().join("dir")).unwrap().mode() & 0o7777, 0o755);
    // As `sftp> mkdir` and `put` say it, who count on the server's umask.
    assert_eq!(client.status(14, text("asked").u32(4).u32(0o777)).await, 0);
    assert_eq!(fs::metadata(client.dir.path().join("asked")).unwrap().mode() & 0o7777, 0o755);
    let handle = client.handle(3, text("asked/new").u32(WRITE_NEW).u32(4).u32(0o666)).await;
    assert_eq!(fs::metadata(client.dir.path().join("asked/new")).unwrap().mode() & 0o7777, 0o644);
    let space = |handle: &[u8]| Writer::default().bytes(b"fstatvfs@openssh.com").bytes(handle);
    assert_eq!(client.ask(200, space(&handle)).await.1.len(), 88);
    assert_eq!(client.status(4, Writer::default().bytes(&handle)).await, 0);
    assert_eq!(client.status(200, space(&handle)).await, Code::Failure as u32, "it is closed");
    let real = client.dir.path().canonicalize().unwrap().to_str().unwrap().to_owned();
    assert_eq!(path(&mut client, 16, text(".")).await, real);
    assert_eq!(path(&mut client, 16, text("")).await, real);
    assert_eq!(path(&mut client, 16, text("dir/link")).await, format!("{real}/dir/7"));
    assert_eq!(path(&mut client, 16, text("dir/../new")).await, format!("{real}/new"));
    assert_eq!(path(&mut client, 19, text("dir/link")).await, "../dir/7");
    assert_eq!(client.status(16, text("no/such/new")).await, Code::NoSuchFile as u32);
    assert_eq!(path(&mut client, 200, text("expand-path@openssh.com").bytes(b"~root")).await, "/root");
    assert_eq!(path(&mut client, 200, text("expand-path@openssh.com").bytes(b"~/new")).await, format!("{real}/new"));
    // What is meant for somebody else's home does not go to the root.
    let nobody = client.status(200, text("expand-path@openssh.com").bytes(b"~no-such-user/etc/passwd")).await;
    assert_eq!(nobody, Code::NoSuchFile as u32);
    assert_eq!(client.status(15, text("dir")).await, Code::Failure as u32, "there is something in it");
    let (kind, rest) = client.ask(7, text("dir/link")).await;
    let attributes = Attributes::read(&mut Reader::new(&rest)).unwrap();
    assert!(kind == 105 && attributes.mode.unwrap() & 0o170_000 == 0o120_000);
    assert_eq!(client.ask(200, text("limits@openssh.com")).await.0, 201);
    assert_eq!(client.ask(200, text("statvfs@openssh.com").bytes(b"/")).await.1.len(), 88);
}

#[tokio::test]
async fn a_packet_that_cannot_be_ends_it() {
    for head in [0_u32, u32::MAX, u32::try_from(PACKET_MAX).unwrap() + 1] {
        let mut client = Client::new();
        client.stream.write_all(&head.to_be_bytes()).await.unwrap();
        assert_eq!(client.stream.read(&mut [0; 8]).await.unwrap(), 0, "{head}");
    }
}
