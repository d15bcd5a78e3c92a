//! The command line as it is, and what may not be in it.

use sandpen_images::disk::ImageDisk;

use super::*;

fn args(accelerator: Accelerator) -> QemuArgs {
    let (kernel, initramfs) = ("/data/kernel/6.1.0-56-cloud-amd64/vmlinux", "/state/cache/initramfs-ab.cpio");
    QemuArgs {
        cpus: 2,
        tsc_khz: Some(2_596_131),
        shares: vec!["sandpen-root".into(), "sandpen-volume-0".into()],
        share_sockets: Some(3),
        ..QemuArgs::plain("4f1c/default/web/1", accelerator, kernel, initramfs)
    }
}

fn text(args: &QemuArgs) -> String {
    let argv = args.to_argv();
    let mut text = String::new();
    for arg in argv {
        let arg = arg.into_string().unwrap();
        text.push_str(if arg.starts_with('-') { "\n" } else { " " });
        text.push_str(&arg);
    }
    text
}

#[test]
fn under_emulation() {
    insta::assert_snapshot!(text(&args(Accelerator::Tcg)), @r"
    -name sandpen/4f1c/default/web/1
    -no-user-config
    -nodefaults
    -no-reboot
    -display none
    -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
    -M microvm,memory-backend=mem
    -accel tcg,thread=multi
    -cpu max,la57=off,erms=off,fsrm=off
    -smp 2
    -m 256M
    -object memory-backend-memfd,id=mem,size=256M,share=on
    -kernel /data/kernel/6.1.0-56-cloud-amd64/vmlinux
    -initrd /state/cache/initramfs-ab.cpio
    -append console=ttyS0 reboot=t panic=-1 quiet mitigations=off tsc_early_khz=2596131 tsc=reliable
    -global virtio-mmio.force-legacy=false
    -chardev file,id=console,path=/proc/self/fd/1,append=on
    -serial chardev:console
    -chardev socket,id=share0,fd=3
    -device vhost-user-fs-device,chardev=share0,tag=sandpen-root,queue-size=1024
    -chardev socket,id=share1,fd=4
    -device vhost-user-fs-device,chardev=share1,tag=sandpen-volume-0,queue-size=1024
    -device virtio-serial-device,id=ports
    -chardev pipe,id=control,path=control
    -device virtserialport,bus=ports.0,nr=1,chardev=control,name=org.sandpen.control
    -chardev pipe,id=stdin,path=stdin
    -device virtserialport,bus=ports.0,nr=2,chardev=stdin,name=org.sandpen.stdin
    -chardev pipe,id=stdout,path=stdout
    -device virtserialport,bus=ports.0,nr=3,chardev=stdout,name=org.sandpen.stdout
    -chardev pipe,id=stderr,path=stderr
    -device virtserialport,bus=ports.0,nr=4,chardev=stderr,name=org.sandpen.stderr
    -chardev pipe,id=files,path=files
    -device virtserialport,bus=ports.0,nr=5,chardev=files,name=org.sandpen.files
    -chardev pipe,id=sessions,path=sessions
    -device virtserialport,bus=ports.0,nr=6,chardev=sessions,name=org.sandpen.sessions
    ");
}

#[test]
fn with_kvm() {
    let (kvm, tcg) = (text(&args(Accelerator::Kvm)), text(&args(Accelerator::Tcg)));
    let differing: Vec<_> = kvm.lines().filter(|line| !tcg.lines().any(|other| other == *line)).collect();
    insta::assert_snapshot!(differing.join("\n"), @r"
    -accel kvm
    -cpu host
    -append console=ttyS0 reboot=t panic=-1 quiet mitigations=off
    ");
}

#[test]
fn with_a_network() {
    let plain = args(Accelerator::Tcg);
    let mut connected = plain.clone();
    let ports = vec![(Ipv4Addr::LOCALHOST, 8080, 80), (Ipv4Addr::UNSPECIFIED, 53, 5353)];
    connected.network = Some(UserNetwork { restricted: true, ports });
    insta::assert_snapshot!(text(&connected).strip_prefix(&text(&plain)).unwrap(), @r"
    -netdev user,id=net,ipv6=off,restrict=on,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=tcp:0.0.0.0:53-:5353
    -device virtio-net-device,netdev=net
    ");
}

#[test]
fn a_disk_is_a_device_more_and_its_path_adds_no_options() {
    let mut args = args(Accelerator::Tcg);
    let without = text(&args);
    args.disk = Some("/st,ate/a=b,readonly=on.img".into());
    args.root_disks = vec![RootDisk::File("/cache/root-ab.img".into())];
    let with = text(&args);
    let added: Vec<_> = with.lines().filter(|line| !without.lines().any(|other| other == *line)).collect();
    insta::assert_snapshot!(added.join("\n"), @r"
    -blockdev driver=file,node-name=disk,discard=unmap,filename=/st,,ate/a=b,,readonly=on.img
    -device virtio-blk-device,drive=disk,serial=sandpen-disk,num-queues=1,werror=report,rerror=report
    -blockdev driver=file,node-name=image0,read-only=on,filename=/cache/root-ab.img
    -device virtio-blk-device,drive=image0,serial=sandpen-image-0,num-queues=1,werror=report,rerror=report
    ");
}

#[test]
fn a_disk_of_several_files_is_below_a_node_that_can_be_put_elsewhere() {
    let mut args = args(Accelerator::Tcg);
    let without = text(&args);
    args.root_disks = vec![RootDisk::Joined(ImageDisk { extents: Vec::new() })];
    args.disk_descriptors = vec!["/dev/fdset/40".into()];
    let with = text(&args);
    let added: Vec<_> = with.lines().filter(|line| !without.lines().any(|other| other == *line)).collect();
    insta::assert_snapshot!(added.join("\n"), @r"
    -blockdev driver=vmdk,node-name=image0-joined,read-only=on,file.driver=file,file.filename=/dev/fdset/40
    -blockdev driver=raw,node-name=image0,read-only=on,file=image0-joined
    -device virtio-blk-device,drive=image0,serial=sandpen-image-0,num-queues=1,werror=report,rerror=report
    ");
}

#[test]
fn a_kernel_without_acpi_gets_its_devices_by_command_line() {
    let mut args = args(Accelerator::Tcg);
    args.acpi = false;
    assert!(text(&args).contains("\n-M microvm,memory-backend=mem,acpi=off\n"));
}

#[test]
fn a_machine_that_is_saved_and_one_that_is_restored() {
    let booted = args(Accelerator::Tcg);
    let added = |args: &QemuArgs| {
        let (with, without) = (text(args), text(&booted));
        let added: Vec<_> = with.lines().filter(|line| !without.lines().any(|other| other == *line)).collect();
        added.join("\n")
    };
    let saved = QemuArgs { memory: Memory::File("/proc/self/fd/10".into()), monitor: Monitor::Fifos, ..booted.clone() };
    insta::assert_snapshot!(added(&saved), @r"
    -object memory-backend-file,id=mem,size=256M,share=on,mem-path=/proc/self/fd/10
    -chardev pipe,id=qmp,path=qmp
    -mon chardev=qmp,mode=control
    ");
    let restored = QemuArgs { memory: Memory::CopyOf("/a,b".into()), incoming: true, ..booted.clone() };
    insta::assert_snapshot!(added(&restored), @r"
    -object memory-backend-file,id=mem,size=256M,share=off,mem-path=/a,,b
    -incoming defer
    ");
}

#[test]
fn a_tag_cannot_add_options() {
    let mut args = args(Accelerator::Tcg);
    args.tag = "a,debug-threads=on x".into();
    assert!(text(&args).contains("\n-name sandpen/adebug-threadsonx\n"));
}

#[test]
fn freed_memory_is_reported_and_told_from_what_a_disk_forgets() {
    let of = |free_memory| {
        let disk = Some("/state/disks/a.img".into());
        text(&QemuArgs { disk, free_memory, ..args(Accelerator::Tcg) })
    };
    let small = ",max-discard-sectors=4095,max-write-zeroes-sectors=4095";
    let (kept, reported, copied) = (of(FreeMemory::Kept), of(FreeMemory::Reported), of(FreeMemory::ReportedOfCopies));
    assert!(!kept.contains("balloon") && !kept.contains(small));
    assert!(reported.contains("virtio-balloon-device,free-page-reporting=on,page-poison=off"));
    assert_eq!(copied.replace(small, ""), reported);
    assert!(copied.contains(small) && !reported.contains(small));
}
