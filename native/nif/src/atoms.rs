//! Every atom that this library makes by itself. Those of return codes come from the fixed table in `token`.

rustler::atoms! {
    ok, error, nil, run, pkcs11_pool,
    // provisioning
    init_token, init_pin, set_pin,
    // requests
    ping, probe, apply, prepare, batch, sign, verify, encrypt, decrypt, digest, digest_key, stream_begin, stream_update, stream_finish, stream_break_off, generate_random, seed_random, generate_key, generate_key_pair, find_objects, get_attributes, destroy_object, object_size, unwrap_key,
    wrap_key, encapsulate, decapsulate,
    argument, derive_key, create_object, copy_object, set_attributes, mechanisms, token_info,
    // keys
    find, newest, public_key, rsa, curve, post_quantum, object, ulong, ulongs, template, rsa_pss, rsa_oaep, rsa_aes, ecdh_aes, sp800_108, key, string_data, cbc_data, hkdf, pbkdf2, hashed, gcm, token, ecdh1, ccm, poly1305, chacha20, eddsa, signature_context,
    // details of errors
    public_keys, certificates, unproved,
    // answers
    key_pair, sensitive, unavailable,
    // modules, slots, tokens
    module, slots, description, manufacturer, model, flags, version, cryptoki_version, function_list, interfaces, name, hardware_version, firmware_version, infinity, utc_time,
    session_count, max_session_count, rw_session_count, max_rw_session_count, min_pin_length, max_pin_length,
    total_public_memory, free_public_memory, total_private_memory, free_private_memory,
    // time is over
    before_start, while_running, still_running, answered, timeout,
    // serve
    parked, again, gone,
    // run_here
    done,
    // progress
    queued, over,
    // executors
    auto, dirty_io, threads, mixed,
    // errors
    pools, leases, inside,
    class, key_type, longest,
    unknown, iv, cause, source_reason, away_ms, retry_after_ms, path, expected, expected_bytes, given_bytes, actual, option, candidates, limit, selector, available, poisoned,
    // notices
    runners_wanted, pin_wanted, session_opened, session_refused, session_closed, session_hung, hung_returned, login_ended, logged_out,
    drained, lease_expired, retried, up, reinitialized,
    // what a hung call costs
    replaced, session, scheduler,
    // options
    label, serial, slot_id, uri, uninitialized, none, pin, protected,
    // status
    size, idle, running, opening, closing, waiting, leased, active, hung, runners, epoch, login, draining, gated, down, ceiling, serialized, panics,
    health, health_reason, health_since, ready, degraded, results, latency, count, p50, p99,
}
