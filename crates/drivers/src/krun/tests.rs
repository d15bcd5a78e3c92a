//! What hosts that lack something are told; microVMs are in `tests/vm/krun.rs`.

use sandpen_types::spec::{Rootfs, SandboxName, SandboxSpec};

use super::*;

fn launch(dir: &std::path::Path, rootfs: Rootfs, command: &str) -> Launch {
    let state_dir = StateDir::new(dir.join("state"));
    let spec = SandboxSpec::new(SandboxName::new("box").unwrap(), rootfs, vec![command.into()]);
    Launch {
        runtime_dir: state_dir.path().join("run/default/box"),
        vmm_log: state_dir.path().join("logs/default/box.vmm"),
        spec: Arc::new(spec),
        generation: 1,
        state_id: "id".to_owned(),
        uid: None,
        timings: sandpen_vmm::start_timings::StartTimings::default(),
        cancel: tokio_util::sync::CancellationToken::new(),
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let config = KrunConfig::new(StateDir::new(dir.path().join("state")), dir.path().join("data"));
    let overlay = launch(dir.path(), Rootfs::Overlayfs(vec![dir.path().into(); 5]), "true");
    let error = KrunDriver::new(config.clone()).launch(overlay).await.unwrap_err();
    assert!(matches!(error, DriverError::Unsupported { .. }), "{error}");
    let native = launch(dir.path(), Rootfs::Native(dir.path().into()), "true");
    // Either KVM or libkrunfw is missing.
    let error = KrunDriver::new(config.clone()).launch(native.clone()).await.unwrap_err().chain();
    assert!(error.contains("--driver qemu") || error.contains("kernel install"), "{error}");
    let error = KrunDriver::bare(config.clone()).launch(native).await.unwrap_err().chain();
    assert!(error.contains("ELF"), "{error}");
    assert!(matches!(
        KrunDriver::new(config).adopt(launch(dir.path(), Rootfs::Native("/".into()), "true")).await,
        Err(DriverError::Gone)
    ));
    assert!(!dir.path().join("state").exists());
}
