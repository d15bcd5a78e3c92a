//! This host as actors see it: its clock, its disk's room, what an error says of it, what a specification names of it and where that
//! lies, and descriptors that become readable.

pub mod clock;
pub mod fault_of;
pub mod mounts;
pub mod places;
pub(crate) mod readable;
pub mod room;
pub mod spec_on_host;
