//! The steps of a start, by which its time is told.

/// Who spends the time up to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spender {
    /// Sandpen on the host.
    Sandpen,
    /// The VMM process and its companions.
    Vmm,
    /// The guest: its kernel, its PID 1, the workload.
    Guest,
}

impl Spender {
    /// Its word, for users and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sandpen => "sandpen",
            Self::Vmm => "vmm",
            Self::Guest => "guest",
        }
    }
}

/// A step of a start and of what follows it, in the usual order. Not every start has all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StartStep {
    /// The orchestrator was asked for it, by a request or by the restart policy.
    Requested,
    /// The specification was found good, by the driver too.
    Checked,
    /// The row is durable, STARTING.
    Recorded,
    /// The driver has found the guest's kernel and made its initramfs.
    KernelReady,
    /// Root, layers, disks and volumes are ready, and so are the command lines.
    RootReady,
    /// The saved machine that is restored was at hand, read or made.
    TemplateReady,
    /// The waiter process was started.
    WaiterStarted,
    /// The VMM process and its companions were executed.
    VmmStarted,
    /// The guest waits for its orders: it has booted, or was restored.
    GuestReady,
    /// It got them.
    StartSent,
    /// It says that it executed the workload.
    WorkloadStarted,
    /// RUNNING is durable.
    Running,
    /// The first byte of output is on file.
    FirstOutput,
    /// The guest reported the workload's end.
    WorkloadEnded,
    /// All output is on file.
    OutputComplete,
    /// The exit is durable.
    ExitRecorded,
    /// The VMM process is gone.
    VmmEnded,
    /// STOPPED or FAILED is durable.
    EndRecorded,
    /// Waiter and runtime directory are gone.
    Released,
}

impl StartStep {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Requested,
        Self::Checked,
        Self::Recorded,
        Self::KernelReady,
        Self::RootReady,
        Self::TemplateReady,
        Self::WaiterStarted,
        Self::VmmStarted,
        Self::GuestReady,
        Self::StartSent,
        Self::WorkloadStarted,
        Self::Running,
        Self::FirstOutput,
        Self::WorkloadEnded,
        Self::OutputComplete,
        Self::ExitRecorded,
        Self::VmmEnded,
        Self::EndRecorded,
        Self::Released,
    ];

    /// Its word, for users and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Checked => "checked",
            Self::Recorded => "recorded",
            Self::KernelReady => "kernel_ready",
            Self::RootReady => "root_ready",
            Self::TemplateReady => "template_ready",
            Self::WaiterStarted => "waiter_started",
            Self::VmmStarted => "vmm_started",
            Self::GuestReady => "guest_ready",
            Self::StartSent => "start_sent",
            Self::WorkloadStarted => "workload_started",
            Self::Running => "running",
            Self::FirstOutput => "first_output",
            Self::WorkloadEnded => "workload_ended",
            Self::OutputComplete => "output_complete",
            Self::ExitRecorded => "exit_recorded",
            Self::VmmEnded => "vmm_ended",
            Self::EndRecorded => "end_recorded",
            Self::Released => "released",
        }
    }

    /// Who spends the time that ends with it.
    pub fn spender(self) -> Spender {
        match self {
            Self::VmmEnded => Spender::Vmm,
            // What QEMU needs until the guest's first instruction cannot be told from the guest's boot.
            Self::GuestReady | Self::WorkloadStarted | Self::FirstOutput | Self::WorkloadEnded => Spender::Guest,
            _ => Spender::Sandpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_its_own_place_and_name() {
        for (place, step) in StartStep::ALL.into_iter().enumerate() {
            assert_eq!(step as usize, place);
            assert_eq!(StartStep::ALL.iter().filter(|other| other.name() == step.name()).count(), 1);
        }
    }
}
