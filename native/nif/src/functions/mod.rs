//! The functions that Elixir calls, by what they are about. Their twins are in `lib/pkcs11_pool/native.ex`.

mod counters;
mod leases;
mod modules;
mod operations;
mod pools;
mod runners;
