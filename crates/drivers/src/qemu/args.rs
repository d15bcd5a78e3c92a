//! QEMU's command line, as a pure function.
//!
//! Nothing of the user's is in it but checked names and numbers: command, environment and workdir
//! reach the guest through the control port. Paths of sockets and FIFOs are relative to the
//! sandbox's runtime directory, which is QEMU's working directory.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use crate::acceleration::Accelerator;
use crate::disk;
use crate::image_root::RootDisk;
pub use crate::waited::PORTS;

/// Shared directories that a machine has room for. QEMU's microvm machine has 24 virtio-mmio
/// transports (with ACPI, as it is by default): one is the ports', one a disk's, one a network's, one the balloon's.
pub const SHARES_MAX: usize = 20;
/// The same where there are no tables of ACPI: 8 transports.
pub const SHARES_MAX_WITHOUT_ACPI: usize = 4;

/// What Linux tells of free memory is a multiple of this and begins at one: a large page
/// (`pageblock_order` in include/linux/pageblock-flags.h of x86-64).
///
/// QEMU gives both the memory's and a disk's room back by punching holes into their files, and where the memory is a
/// copy of a file the file must stay as it is. So [`Policy::private_memory`](crate::confine::Policy) tells the two apart
/// by their sizes.
pub const REPORT_BYTES: u64 = 2 << 20;
/// Sectors of 512 bytes that a disk forgets or zeroes at once: less than [`REPORT_BYTES`].
const SMALL_DISCARD: u64 = REPORT_BYTES / 512 - 1;

/// What the guest's kernel takes of its memory for the session port's receive buffers, rounded up to whole
/// [`REPORT_BYTES`], in MiB: a machine has it besides what its sandbox asks for. QEMU's virtio-mmio offers queues of 1024
/// (`VIRTQUEUE_MAX_SIZE`), which Linux fills with a page each (`fill_queue` in drivers/char/virtio_console.c): 4 MiB.
pub const SESSION_PORT_MIB: u32 = 6;

/// virtiofsd's socket in the runtime directory, for each shared directory.
pub fn share_socket(number: usize) -> String {
    if number == 0 { "virtiofs.sock".to_owned() } else { format!("virtiofs-{number}.sock") }
}

/// All that the command line depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuArgs {
    /// Shown by `ps`; anything but letters, digits and `_ . - /` is left out.
    pub tag: String,
    /// What executes the guest's code.
    pub accelerator: Accelerator,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Rate of the host's time stamp counter; used under TCG.
    pub tsc_khz: Option<u32>,
    /// The unpacked kernel.
    pub kernel: PathBuf,
    /// Whether it finds its devices in tables of ACPI; else QEMU names them on its command line.
    pub acpi: bool,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// Tags of the shared directories, at most [`SHARES_MAX`].
    pub shares: Vec<String>,
    /// The descriptor of the first one's connected socket, the others' follow; `None` to connect to [`share_socket`]s.
    pub share_sockets: Option<i32>,
    /// The network, if there is one.
    pub network: Option<UserNetwork>,
    /// The disk of the writable layer, where there is one; the guest's first disk.
    pub disk: Option<PathBuf>,
    /// Disks of the root that are only read, topmost first.
    pub root_disks: Vec<RootDisk>,
    /// The descriptor files of the joined ones among them, in their order, once they are handed over.
    pub disk_descriptors: Vec<PathBuf>,
    /// The guest's memory.
    pub memory: Memory,
    /// Whether the host has back what is free of it.
    pub free_memory: FreeMemory,
    /// Descriptors of files, which are also `/dev/fdset/N` for the same number.
    pub descriptors: Vec<i32>,
    /// Where QEMU listens to commands.
    pub monitor: Monitor,
    /// Whether it waits for a machine's state instead of booting.
    pub incoming: bool,
}

/// What becomes of memory that the guest has freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreeMemory {
    /// It stays the guest's.
    Kept,
    /// The guest reports it.
    Reported,
    /// The same of a machine that may be restored: its disk takes no request to forget or to zero as much as a report
    /// has, see [`REPORT_BYTES`].
    ReportedOfCopies,
}

/// Where the guest's memory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Memory {
    /// Made by QEMU, so that virtiofsd can map it.
    New,
    /// This file, written to.
    File(PathBuf),
    /// This file as it is; what the guest writes is its own.
    CopyOf(PathBuf),
}

/// Where QEMU's monitor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Monitor {
    /// Nowhere.
    None,
    /// On the FIFOs [`QMP`].
    Fifos,
    /// On the socket that it has as this descriptor, which listens.
    Listener(i32),
}

/// The FIFO pair on which QEMU's monitor speaks QMP (`docs/interop/qmp-spec.txt` of QEMU).
pub const QMP: &str = "qmp";

/// QEMU's user networking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserNetwork {
    /// Nothing goes out.
    pub restricted: bool,
    /// Host address, host port and guest port of each TCP port that the host listens for.
    pub ports: Vec<(Ipv4Addr, u16, u16)>,
}

impl QemuArgs {
    /// A machine that boots, with a processor, 256 MiB and nothing but ports.
    pub fn plain(
        tag: impl Into<String>,
        accelerator: Accelerator,
        kernel: impl Into<PathBuf>,
        initramfs: impl Into<PathBuf>,
    ) -> Self {
        Self {
            tag: tag.into(),
            accelerator,
            cpus: 1,
            memory_mib: 256,
            tsc_khz: None,
            kernel: kernel.into(),
            acpi: true,
            initramfs: initramfs.into(),
            shares: Vec::new(),
            share_sockets: None,
            network: None,
            disk: None,
            root_disks: Vec::new(),
            disk_descriptors: Vec::new(),
            memory: Memory::New,
            free_memory: FreeMemory::Kept,
            descriptors: Vec::new(),
            monitor: Monitor::None,
            incoming: false,
        }
    }

    /// The arguments after the program's name.
    pub fn to_argv(&self) -> Vec<OsString> {
        let mut argv = Argv(Vec::new());
        let tag: String =
            self.tag.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/')).collect();
        argv.pair("-name", format!("sandpen/{tag}"));
        argv.flag("-no-user-config");
        argv.flag("-nodefaults");
        // A reset of the guest is its end, a panic as well (kernel parameter panic=-1).
        argv.flag("-no-reboot");
        argv.pair("-display", "none");
        argv.pair("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        argv.pair("-M", if self.acpi { "microvm,memory-backend=mem" } else { "microvm,memory-backend=mem,acpi=off" });
        match self.accelerator {
            Accelerator::Kvm => {
                argv.pair("-accel", "kvm");
                argv.pair("-cpu", "host");
            }
            Accelerator::Tcg => {
                argv.pair("-accel", "tcg,thread=multi");
                // Programs of today are built for x86-64-v2 or v3, which `qemu64` is not.
                // Page tables of five levels would only cost: no guest has that much memory.
                // Fast string instructions are slow where they are emulated, byte by byte: Linux is not to clear and copy
                // memory by them, nor C libraries (measured in docs/drivers.md).
                argv.pair("-cpu", "max,la57=off,erms=off,fsrm=off");
            }
        }
        argv.pair("-smp", self.cpus.to_string());
        argv.pair("-m", format!("{}M", self.memory_mib));
        argv.pair("-object", self.memory_backend());
        argv.pair("-kernel", &self.kernel);
        argv.pair("-initrd", &self.initramfs);
        argv.pair("-append", self.kernel_parameters());
        argv.pair("-global", "virtio-mmio.force-legacy=false");
        // An open file description of its own: QEMU makes it non-blocking, and its own messages on
        // stderr, often the same pipe, must not be lost for that.
        argv.pair("-chardev", "file,id=console,path=/proc/self/fd/1,append=on");
        argv.pair("-serial", "chardev:console");
        for descriptor in &self.descriptors {
            argv.pair("-add-fd", format!("fd={descriptor},set={descriptor}"));
        }
        for (number, tag) in self.shares.iter().enumerate() {
            let socket = match self.share_sockets.and_then(|first| (first..).nth(number)) {
                Some(descriptor) => format!("fd={descriptor}"),
                None => format!("path={}", share_socket(number)),
            };
            argv.pair("-chardev", format!("socket,id=share{number},{socket}"));
            argv.pair("-device", format!("vhost-user-fs-device,chardev=share{number},tag={tag},queue-size=1024"));
        }
        if let Some(disk) = &self.disk {
            let most = if self.free_memory == FreeMemory::ReportedOfCopies {
                format!(",max-discard-sectors={SMALL_DISCARD},max-write-zeroes-sectors={SMALL_DISCARD}")
            } else {
                String::new()
            };
            argv.disk("disk", "discard=unmap", disk, disk::SERIAL, &most);
        }
        let mut descriptors = self.disk_descriptors.iter();
        for (number, disk) in self.root_disks.iter().enumerate() {
            let (node, serial) = (format!("image{number}"), disk::root_disk_serial(number));
            match disk {
                RootDisk::File(file) => argv.disk(&node, "read-only=on", file, &serial, ""),
                RootDisk::Joined(_) => {
                    argv.joined_disk(&node, descriptors.next().map_or(Path::new(""), PathBuf::as_path), &serial);
                }
            }
        }
        argv.pair("-device", "virtio-serial-device,id=ports");
        for (number, (fifo, port)) in (1..).zip(PORTS) {
            // `pipe` opens both FIFOs O_RDWR: a reader may come and go without a byte being lost.
            argv.pair("-chardev", format!("pipe,id={fifo},path={fifo}"));
            argv.pair("-device", format!("virtserialport,bus=ports.0,nr={number},chardev={fifo},name={port}"));
        }
        if let Some(network) = &self.network {
            let mut netdev = format!("user,id=net,ipv6=off,restrict={}", if network.restricted { "on" } else { "off" });
            for (address, host, guest) in &network.ports {
                let _ = write!(netdev, ",hostfwd=tcp:{address}:{host}-:{guest}"); // a String takes everything
            }
            argv.pair("-netdev", netdev);
            argv.pair("-device", "virtio-net-device,netdev=net");
        }
        if self.free_memory != FreeMemory::Kept {
            // A guest that counts on what its free memory holds (`init_on_free`, page poisoning) reports none then: what
            // comes in its place may be anything that was there before.
            argv.pair("-device", "virtio-balloon-device,free-page-reporting=on,page-poison=off");
        }
        let monitor = match self.monitor {
            Monitor::None => None,
            Monitor::Fifos => Some(format!("pipe,id={QMP},path={QMP}")),
            Monitor::Listener(descriptor) => Some(format!("socket,id={QMP},fd={descriptor},server=on,wait=off")),
        };
        if let Some(monitor) = monitor {
            argv.pair("-chardev", monitor);
            argv.pair("-mon", format!("chardev={QMP},mode=control"));
        }
        if self.incoming {
            argv.pair("-incoming", "defer");
        }
        argv.0
    }

    fn memory_backend(&self) -> OsString {
        let size = self.memory_mib;
        let file = |path: &Path, share: &str| {
            let mut backend =
                OsString::from(format!("memory-backend-file,id=mem,size={size}M,share={share},mem-path="));
            backend.push(doubled_commas(path.as_os_str()));
            backend
        };
        match &self.memory {
            // virtiofsd maps it, so it has to be shared.
            Memory::New => format!("memory-backend-memfd,id=mem,size={size}M,share=on").into(),
            Memory::File(path) => file(path, "on"),
            Memory::CopyOf(path) => file(path, "off"),
        }
    }

    fn kernel_parameters(&self) -> String {
        let mut parameters = "console=ttyS0 reboot=t panic=-1 quiet mitigations=off".to_owned();
        if let (Accelerator::Tcg, Some(khz)) = (self.accelerator, self.tsc_khz) {
            // With several processors Linux would trust no counter of an emulated one, and count timer ticks, of which a busy
            // host loses some: all of them read the host's own.
            let _ = write!(parameters, " tsc_early_khz={khz} tsc=reliable"); // a String takes everything
        }
        parameters
    }
}

/// How QEMU's option syntax writes a comma.
fn doubled_commas(text: &OsStr) -> OsString {
    let mut doubled = Vec::with_capacity(text.len());
    for byte in text.as_bytes() {
        doubled.push(*byte);
        if *byte == b',' {
            doubled.push(b',');
        }
    }
    OsString::from_vec(doubled)
}

struct Argv(Vec<OsString>);

impl Argv {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn disk(&mut self, node: &str, options: &str, disk: &Path, serial: &str, more: &str) {
        let mut file = OsString::from(format!("driver=file,node-name={node},{options},filename="));
        // A comma would begin the next property.
        file.push(doubled_commas(disk.as_os_str()));
        self.pair("-blockdev", file);
        self.disk_device(node, serial, more);
    }

    /// A disk of several files, which a descriptor (VMDK) joins; QEMU opens them by the names in it.
    fn joined_disk(&mut self, node: &str, descriptor: &Path, serial: &str) {
        let mut joined =
            OsString::from(format!("driver=vmdk,node-name={node}-joined,read-only=on,file.driver=file,file.filename="));
        joined.push(doubled_commas(descriptor.as_os_str()));
        self.pair("-blockdev", joined);
        // A machine with a vmdk node cannot be saved. The one above it can be put onto another one meanwhile.
        self.pair("-blockdev", format!("driver=raw,node-name={node},read-only=on,file={node}-joined"));
        self.disk_device(node, serial, "");
    }

    fn disk_device(&mut self, node: &str, serial: &str, more: &str) {
        // By default QEMU stops a machine whose host has no room left, and nobody would go on.
        let device = "num-queues=1,werror=report,rerror=report";
        self.pair("-device", format!("virtio-blk-device,drive={node},serial={serial},{device}{more}"));
    }

    fn pair(&mut self, flag: &str, value: impl Into<OsString>) {
        self.0.extend([flag.into(), value.into()]);
    }
}

#[cfg(test)]
mod tests;
