//! How a pool names its token, and whether a token in a slot is the one.

use std::sync::Arc;

use cryptoki_sys::{CK_SLOT_ID, CKF_TOKEN_INITIALIZED};

use crate::p11::{LibraryInfo, SlotInfo, TokenInfo};

/// How a pool names its slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// By the token's label.
    Label(String),
    /// By the token's serial number.
    Serial(String),
    /// By the slot's number.
    Id(CK_SLOT_ID),
    /// By the attributes of a PKCS#11 URI (RFC 7512).
    Uri(Vec<(UriAttribute, String)>),
    /// As one that nobody has initialized: where a new token is to be made.
    Uninitialized,
}

/// The attributes of RFC 7512 that name a token, its slot, or the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UriAttribute {
    /// `token`
    Token,
    /// `serial`
    Serial,
    /// `manufacturer`
    Manufacturer,
    /// `model`
    Model,
    /// `slot-id`
    SlotId,
    /// `slot-description`
    SlotDescription,
    /// `slot-manufacturer`
    SlotManufacturer,
    /// `library-description`
    LibraryDescription,
    /// `library-manufacturer`
    LibraryManufacturer,
    /// `library-version`
    LibraryVersion,
}

/// What a module says of a token: what a selector may ask for.
pub(super) struct Described {
    pub(super) token: TokenInfo,
    pub(super) slot: Option<SlotInfo>,
    pub(super) library: Option<LibraryInfo>,
}

impl Selector {
    pub(super) fn matches(&self, id: CK_SLOT_ID, Described { token, slot, library }: &Described) -> bool {
        let has = |(attribute, value): &(UriAttribute, String)| {
            let found = match attribute {
                UriAttribute::Token => Some(token.label.clone()),
                UriAttribute::Serial => Some(token.serial.clone()),
                UriAttribute::Manufacturer => Some(token.manufacturer.clone()),
                UriAttribute::Model => Some(token.model.clone()),
                UriAttribute::SlotId => Some(id.to_string()),
                UriAttribute::SlotDescription => slot.as_ref().map(|slot| slot.description.clone()),
                UriAttribute::SlotManufacturer => slot.as_ref().map(|slot| slot.manufacturer.clone()),
                UriAttribute::LibraryDescription => library.as_ref().map(|library| library.description.clone()),
                UriAttribute::LibraryManufacturer => library.as_ref().map(|library| library.manufacturer.clone()),
                UriAttribute::LibraryVersion => {
                    library.as_ref().map(|library| format!("{}.{}", library.version.0, library.version.1))
                }
            };
            found.as_deref() == Some(value.as_str())
        };
        match self {
            Self::Label(label) => token.label == *label,
            Self::Serial(serial) => token.serial == *serial,
            Self::Id(wanted) => id == *wanted,
            Self::Uri(attributes) => attributes.iter().all(has),
            Self::Uninitialized => token.flags & CKF_TOKEN_INITIALIZED == 0,
        }
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Label(label) => write!(f, "token label {label:?}"),
            Self::Serial(serial) => write!(f, "token serial {serial:?}"),
            Self::Id(id) => write!(f, "slot id {id}"),
            Self::Uninitialized => f.write_str("an uninitialized token"),
            Self::Uri(attributes) => {
                f.write_str("PKCS#11 URI with ")?;
                for (index, (attribute, value)) in attributes.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{} {value:?}", attribute.name())?;
                }
                Ok(())
            }
        }
    }
}

impl UriAttribute {
    const ALL: [(Self, &'static str); 10] = [
        (Self::Token, "token"),
        (Self::Serial, "serial"),
        (Self::Manufacturer, "manufacturer"),
        (Self::Model, "model"),
        (Self::SlotId, "slot-id"),
        (Self::SlotDescription, "slot-description"),
        (Self::SlotManufacturer, "slot-manufacturer"),
        (Self::LibraryDescription, "library-description"),
        (Self::LibraryManufacturer, "library-manufacturer"),
        (Self::LibraryVersion, "library-version"),
    ];

    /// Its name in a URI.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(attribute, _)| *attribute == self).map_or("", |(_, name)| name)
    }

    /// The attribute of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, other)| *other == name).map(|(attribute, _)| *attribute)
    }
}

/// Serial number and label: by these a token is the same wherever it is seen again.
pub(super) fn identity(info: &TokenInfo) -> Arc<[u8]> {
    [info.serial.as_bytes(), b"\0", info.label.as_bytes()].concat().into()
}
