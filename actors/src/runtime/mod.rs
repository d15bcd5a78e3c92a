//! How actors run: hosted so that their end is always told, found again under one address after it, restarted only so
//! often, and answering late without holding up others.

pub mod actor_ref;
pub mod hosting;
pub mod intensity;
pub mod long_answer;
pub mod without_address;
