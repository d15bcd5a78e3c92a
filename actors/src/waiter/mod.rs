//! The tiny process that outlives us.
