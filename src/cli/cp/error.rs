//! Why a copy failed.

use sandpen::client::ClientError;
use sandpen_types::session::SessionEnd;

use super::super::CliError;
use super::ends::HostError;

/// A copy that is none.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Nothing to do with sandboxes.
    #[error(
        "one of SRC and DST has to be in a sandbox, as NAME:PATH; between places of this host there are cp and tar"
    )]
    NoSandbox,
    /// Both in sandboxes.
    #[error(
        "not from one sandbox to another; send one copy through the other one: `sandpen cp A:/dir/. - | sandpen cp - B:/dir`"
    )]
    TwoSandboxes,
    /// `NAME:`, or `:PATH`.
    #[error("{0:?} is no NAME:PATH; of a local name with a colon write ./{0}")]
    Form(String),
    /// It was begun.
    #[error("copying {from} to {to}")]
    Failed {
        /// As it was given.
        from: String,
        /// As it was given.
        to: String,
        /// Why.
        #[source]
        cause: CopyCause,
    },
}

/// Why a copy was not made, or not whole.
#[derive(Debug, thiserror::Error)]
pub enum CopyCause {
    /// This end.
    #[error(transparent)]
    Host(#[from] HostError),
    /// What an end says of its part.
    #[error("{0}")]
    Said(String),
    /// The sandbox's part ended without a word.
    #[error("the sandbox's part of it ended too early: {0}")]
    Ended(SessionEnd),
    /// The user.
    #[error("interrupted; files that were not whole are removed")]
    Interrupted,
    /// Not of copies alone.
    #[error(transparent)]
    Own(Box<CliError>),
}

impl From<CliError> for CopyCause {
    fn from(error: CliError) -> Self {
        Self::Own(Box::new(error))
    }
}

impl From<ClientError> for CopyCause {
    fn from(error: ClientError) -> Self {
        CliError::from(error).into()
    }
}
