//! Curves by their `CKA_EC_PARAMS`: how long the order is, in bytes, and with it r and s of an ECDSA signature.

/// Bytes of the order of an ECDSA curve: of a named one that is known (SEC 2, RFC 5639, ANSI X9.62, WAP WTLS, GB/T 32918, ANSSI), or of one
/// that is spelled out.
pub fn order_size(params: &[u8]) -> Option<usize> {
    match element(params)? {
        (0x06, oid, []) => ORDER_SIZES.iter().find(|(known, _)| *known == oid).map(|(_, size)| *size),
        (0x30, spelled_out, []) => {
            // ECParameters (X9.62): version, field, curve, base, order, cofactor.
            let rest = [0x02, 0x30, 0x30, 0x04].iter().try_fold(spelled_out, |rest, tag| skip(rest, *tag))?;
            let (0x02, order, _) = element(rest)? else { return None };
            let leading = order.iter().take_while(|byte| **byte == 0).count();
            Some(order.len() - leading).filter(|size| *size > 0)
        }
        _ => None,
    }
}

/// Bytes of an EdDSA signature by the curve of its key (RFC 8410): named by an object identifier, or by a string as PKCS#11 3.0 has it.
pub fn edwards_signature_size(params: &[u8]) -> Option<usize> {
    match element(params)? {
        (0x06, b"\x2b\x65\x70", []) | (0x13, b"edwards25519", []) => Some(64),
        (0x06, b"\x2b\x65\x71", []) | (0x13, b"edwards448", []) => Some(114),
        _ => None,
    }
}

/// The first element of some DER: its tag, its content, and what comes after it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ ..=0x7F => (usize::from(short), rest),
        0x81 => rest.split_first().map(|(one, rest)| (usize::from(*one), rest))?,
        0x82 => rest.split_first_chunk::<2>().map(|(two, rest)| (usize::from(u16::from_be_bytes(*two)), rest))?,
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// What comes after the first element, which must have this tag.
fn skip(der: &[u8], tag: u8) -> Option<&[u8]> {
    element(der).filter(|(own, _, _)| *own == tag).map(|(_, _, rest)| rest)
}

/// Object identifiers without tag and length, and the bytes of the order. Many a curve's field is longer or shorter than that.
static ORDER_SIZES: &[(&[u8], usize)] = &[
    (b"\x2b\x24\x03\x03\x02\x08\x01\x01\x01", 20),     // brainpoolP160r1
    (b"\x2b\x24\x03\x03\x02\x08\x01\x01\x02", 20),     // brainpoolP160t1
    (b"\x2b\x24\x03\x03\x02\x08\x01\x01\x03", 24),     // brainpoolP192r1
    (b"\x2b\x24\x03\x03\x02\x08\x01\x01\x04", 24),     // brainpoolP192t1
    (b"\x2b\x24\x03\x03\x02\x08\x01\x01\x05", 28),     // brainpoolP224r1
    (b"\x2b\x24\x03\x03\x02\x08\x01\x01\x06", 28),     // brainpoolP224t1
    (b"\x2b\x24\x03\x03\x02\x08\x01\x01\x07", 32),     // brainpoolP256r1
    (b"\x2b\x24\x03\x03\x02\x08\x01\x01\x08", 32),     // brainpoolP256t1
    (b"\x2b\x24\x03\x03\x02\x08\x01\x01\x09", 40),     // brainpoolP320r1
    (b"\x2b\x24\x03\x03\x02\x08\x01\x01\x0a", 40),     // brainpoolP320t1
    (b"\x2b\x24\x03\x03\x02\x08\x01\x01\x0b", 48),     // brainpoolP384r1
    (b"\x2b\x24\x03\x03\x02\x08\x01\x01\x0c", 48),     // brainpoolP384t1
    (b"\x2b\x24\x03\x03\x02\x08\x01\x01\x0d", 64),     // brainpoolP512r1
    (b"\x2b\x24\x03\x03\x02\x08\x01\x01\x0e", 64),     // brainpoolP512t1
    (b"\x2b\x81\x04\x00\x06", 14),                     // secp112r1
    (b"\x2b\x81\x04\x00\x07", 14),                     // secp112r2
    (b"\x2b\x81\x04\x00\x1c", 16),                     // secp128r1
    (b"\x2b\x81\x04\x00\x1d", 16),                     // secp128r2
    (b"\x2b\x81\x04\x00\x09", 21),                     // secp160k1
    (b"\x2b\x81\x04\x00\x08", 21),                     // secp160r1
    (b"\x2b\x81\x04\x00\x1e", 21),                     // secp160r2
    (b"\x2b\x81\x04\x00\x1f", 24),                     // secp192k1
    (b"\x2a\x86\x48\xce\x3d\x03\x01\x01", 24),         // secp192r1
    (b"\x2b\x81\x04\x00\x20", 29),                     // secp224k1
    (b"\x2b\x81\x04\x00\x21", 28),                     // secp224r1
    (b"\x2b\x81\x04\x00\x0a", 32),                     // secp256k1
    (b"\x2a\x86\x48\xce\x3d\x03\x01\x07", 32),         // secp256r1
    (b"\x2b\x81\x04\x00\x22", 48),                     // secp384r1
    (b"\x2b\x81\x04\x00\x23", 66),                     // secp521r1
    (b"\x2b\x81\x04\x00\x04", 15),                     // sect113r1
    (b"\x2b\x81\x04\x00\x05", 15),                     // sect113r2
    (b"\x2b\x81\x04\x00\x16", 17),                     // sect131r1
    (b"\x2b\x81\x04\x00\x17", 17),                     // sect131r2
    (b"\x2b\x81\x04\x00\x01", 21),                     // sect163k1
    (b"\x2b\x81\x04\x00\x02", 21),                     // sect163r1
    (b"\x2b\x81\x04\x00\x0f", 21),                     // sect163r2
    (b"\x2b\x81\x04\x00\x18", 25),                     // sect193r1
    (b"\x2b\x81\x04\x00\x19", 25),                     // sect193r2
    (b"\x2b\x81\x04\x00\x1a", 29),                     // sect233k1
    (b"\x2b\x81\x04\x00\x1b", 30),                     // sect233r1
    (b"\x2b\x81\x04\x00\x03", 30),                     // sect239k1
    (b"\x2b\x81\x04\x00\x10", 36),                     // sect283k1
    (b"\x2b\x81\x04\x00\x11", 36),                     // sect283r1
    (b"\x2b\x81\x04\x00\x24", 51),                     // sect409k1
    (b"\x2b\x81\x04\x00\x25", 52),                     // sect409r1
    (b"\x2b\x81\x04\x00\x26", 72),                     // sect571k1
    (b"\x2b\x81\x04\x00\x27", 72),                     // sect571r1
    (b"\x67\x2b\x01\x04\x0b", 30),                     // 2.23.43.1.4.11
    (b"\x2a\x86\x48\xce\x3d\x03\x01\x04", 30),         // 1.2.840.10045.3.1.4
    (b"\x67\x2b\x01\x04\x03", 21),                     // 2.23.43.1.4.3
    (b"\x67\x2b\x01\x04\x01", 14),                     // 2.23.43.1.4.1
    (b"\x2a\x86\x48\xce\x3d\x03\x00\x01", 21),         // 1.2.840.10045.3.0.1
    (b"\x2a\x86\x48\xce\x3d\x03\x00\x03", 21),         // 1.2.840.10045.3.0.3
    (b"\x2a\x86\x48\xce\x3d\x03\x00\x14", 53),         // 1.2.840.10045.3.0.20
    (b"\x2a\x86\x48\xce\x3d\x03\x00\x13", 45),         // 1.2.840.10045.3.0.19
    (b"\x67\x2b\x01\x04\x05", 21),                     // 2.23.43.1.4.5
    (b"\x67\x2b\x01\x04\x07", 21),                     // 2.23.43.1.4.7
    (b"\x67\x2b\x01\x04\x0a", 29),                     // 2.23.43.1.4.10
    (b"\x67\x2b\x01\x04\x06", 14),                     // 2.23.43.1.4.6
    (b"\x2a\x86\x48\xce\x3d\x03\x00\x02", 21),         // 1.2.840.10045.3.0.2
    (b"\x2a\x86\x48\xce\x3d\x03\x00\x06", 24),         // 1.2.840.10045.3.0.6
    (b"\x2a\x86\x48\xce\x3d\x03\x01\x06", 30),         // 1.2.840.10045.3.1.6
    (b"\x2a\x86\x48\xce\x3d\x03\x00\x07", 24),         // 1.2.840.10045.3.0.7
    (b"\x2a\x86\x48\xce\x3d\x03\x01\x05", 30),         // 1.2.840.10045.3.1.5
    (b"\x67\x2b\x01\x04\x04", 15),                     // 2.23.43.1.4.4
    (b"\x2a\x86\x48\xce\x3d\x03\x00\x12", 45),         // 1.2.840.10045.3.0.18
    (b"\x2a\x81\x7a\x01\x81\x5f\x65\x82\x00\x01", 32), // 1.2.250.1.223.101.256.1
    (b"\x2a\x86\x48\xce\x3d\x03\x01\x02", 24),         // 1.2.840.10045.3.1.2
    (b"\x2a\x86\x48\xce\x3d\x03\x00\x05", 24),         // 1.2.840.10045.3.0.5
    (b"\x2a\x86\x48\xce\x3d\x03\x00\x04", 21),         // 1.2.840.10045.3.0.4
    (b"\x2a\x86\x48\xce\x3d\x03\x00\x10", 33),         // 1.2.840.10045.3.0.16
    (b"\x67\x2b\x01\x04\x09", 21),                     // 2.23.43.1.4.9
    (b"\x2a\x86\x48\xce\x3d\x03\x00\x0c", 30),         // 1.2.840.10045.3.0.12
    (b"\x2a\x81\x1c\xcf\x55\x01\x82\x2d", 32),         // 1.2.156.10197.1.301
    (b"\x2a\x86\x48\xce\x3d\x03\x00\x0a", 25),         // 1.2.840.10045.3.0.10
    (b"\x2a\x86\x48\xce\x3d\x03\x00\x0d", 30),         // 1.2.840.10045.3.0.13
    (b"\x67\x2b\x01\x04\x0c", 28),                     // 2.23.43.1.4.12
    (b"\x67\x2b\x01\x04\x08", 15),                     // 2.23.43.1.4.8
    (b"\x2a\x86\x48\xce\x3d\x03\x00\x11", 37),         // 1.2.840.10045.3.0.17
    (b"\x2a\x86\x48\xce\x3d\x03\x00\x0b", 30),         // 1.2.840.10045.3.0.11
    (b"\x2a\x86\x48\xce\x3d\x03\x01\x03", 24),         // 1.2.840.10045.3.1.3
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_that_have_a_name() {
        assert_eq!(order_size(b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"), Some(32));
        assert_eq!(order_size(b"\x06\x05\x2b\x81\x04\x00\x23"), Some(66));
        // secp160r1: its field has 20 bytes, its order has 161 bits.
        assert_eq!(order_size(b"\x06\x05\x2b\x81\x04\x00\x08"), Some(21));
        assert_eq!(edwards_signature_size(b"\x06\x03\x2b\x65\x70"), Some(64));
        assert_eq!(edwards_signature_size(b"\x06\x03\x2b\x65\x71"), Some(114));
        assert_eq!(edwards_signature_size(b"\x13\x0cedwards25519"), Some(64));
    }

    #[test]
    fn a_curve_that_is_spelled_out() {
        let order = b"\x02\x03\x00\x80\x01";
        let mut content = b"\x02\x01\x01\x30\x03\x06\x01\x2a\x30\x00\x04\x01\x04".to_vec();
        content.extend(order);
        let mut params = vec![0x30, content.len() as u8];
        params.extend(&content);
        assert_eq!(order_size(&params), Some(2));
        for cut in 0..params.len() {
            assert_eq!(order_size(&params[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn what_nobody_knows() {
        for params in [&b""[..], b"\x05\x00", b"\x06\x01\x2a", b"\x06\x84\xff\xff\xff\xff", b"\x30\x00", b"\x30\x03\x02\x01\x01"]
        {
            assert_eq!((order_size(params), edwards_signature_size(params)), (None, None), "{params:x?}");
        }
    }
}
