//! The NIF library of pkcs11_pool: terms in, terms out, resources and answers. No logic: that is in `token` and `session_pool`.
//!
//! Only `pool_start`, `serve`, `run_here`, `provision`, `load_module`, `hold_module` and `release_module` may call the module, and they run on dirty-IO
//! schedulers, as do `read_module`, which waits for a thread that calls it, and `read_pin_file`; everything else is a few microseconds on a normal one. None of them raises: each takes what
//! `args` decodes, and answers by its `answer`.

#![deny(unsafe_op_in_unsafe_fn)]

mod args;
mod atoms;
mod beam;
mod caller;
mod decode;
mod encode;
mod error;
mod executor;
mod functions;
mod information;
mod interrupt;
mod resources;
mod sender;
mod tag;

use rustler::{Env, Term};

fn load(_env: Env, _info: Term) -> bool {
    sender::start().is_ok()
}

rustler::init!("Elixir.Pkcs11Pool.Native", load = load);
