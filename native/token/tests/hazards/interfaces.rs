//! Modules of PKCS#11 3.0 and later: which functions are called, and what is cancelled rather than closed.

use std::time::Duration;

use token::{ModuleConfig, report};

use crate::support::module::Module;

/// A module that offers these versions of the standard's interface.
fn module(versions: &[Version]) -> Module {
    let module = Module::new();
    module.offer_interfaces(versions);
    module
}

type Version = (u8, u8);

/// The version whose functions are called, and those of all its interfaces.
fn versions(module: &Module) -> (Version, Vec<Version>) {
    let path = module.path.to_string_lossy().into_owned();
    let report = report(path, ModuleConfig::default(), Duration::from_secs(60)).unwrap().unwrap();
    (report.functions, report.interfaces.unwrap().iter().map(|interface| interface.version.unwrap()).collect())
}

#[test]
fn the_functions_of_the_newest_interface_are_called() {
    let all = [(2, 40), (3, 0), (3, 1), (3, 2)];
    for count in 2..=all.len() {
        assert_eq!(versions(&module(&all[..count])), (all[count - 1], all[..count].to_vec()));
    }
}

#[test]
fn a_module_without_interfaces_or_with_a_newer_one_than_we_know_is_used_with_what_it_has() {
    assert_eq!(versions(&module(&[])), ((2, 40), vec![]));
    assert_eq!(versions(&module(&[(2, 40)])), ((2, 40), vec![]));
    assert_eq!(versions(&module(&[(4, 0)])), ((2, 40), vec![]));
}
