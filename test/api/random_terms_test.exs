defmodule Pkcs11Pool.RandomTermsTest do
  # Every argument of every public function may be any term: what comes back is the documented result, `{:error, %Pkcs11Pool.Error{}}` or an
  # `ArgumentError`; and no message is left behind. Most arguments of a case are good ones, lest the first bad one hide the others; of the bad ones
  # many are good ones of which one part was replaced. Functions and arguments are read from the documentation, so that new ones are tried, too.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Object, Prepared}
  alias Pkcs11Pool.Test.{OTPLibrary, Pools, SoftHSM}
  alias :proper_types, as: Gen

  @compile {:no_warn_undefined, [:proper, Gen]}

  @cases if System.get_env("PKCS11_POOL_LONG"), do: 2_000, else: 300

  # Bounded by the number of cases and the deadlines of calls.
  @moduletag timeout: :infinity

  # What these do to a pool and its token shows in the calls of others.
  @of_whole_pool [
    :login,
    :logout,
    :reload,
    :resize,
    :drain,
    :generate_key,
    :generate_key_pair,
    :create_object,
    :import_private_key,
    :copy_object,
    :set_attributes,
    :unwrap_key,
    :derive_key,
    :encapsulate,
    :decapsulate
  ]
  # There is no such pool, module, signature or object.
  @never_good [
    :drain,
    :drain!,
    :start_link,
    :verify,
    :verify!,
    :verify_stream,
    :verify_stream!,
    :destroy_object,
    :destroy_object!,
    :copy_object,
    :copy_object!,
    # SoftHSM has no PKCS#11 3.2.
    :encapsulate,
    :encapsulate!,
    :decapsulate,
    :decapsulate!,
    :set_attributes,
    :set_attributes!
  ]
  @lazy [:encrypt_stream, :decrypt_stream]
  @slow [:reload, :generate_key_pair, :start_link]

  setup_all do
    [pool, other] =
      for _ <- 1..2 do
        token = SoftHSM.new_token!()
        pool = String.to_atom(token.label)
        start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 2)}, id: pool)
        pool
      end

    Pools.key_pair!(pool, "ec")

    Pools.rsa_pair!(pool)

    for {label, mechanism} <- [{"aes", :aes_key_gen}, {"generic", :generic_secret_key_gen}] do
      {:ok, _key} =
        Pkcs11Pool.generate_key(pool, mechanism,
          token: true,
          label: label,
          value_len: 32,
          encrypt: true,
          decrypt: true,
          sign: true,
          verify: true,
          wrap: true,
          extractable: true
        )
    end

    {:ok, _key} =
      Pkcs11Pool.generate_key(other, :aes_key_gen,
        token: true,
        label: "aes",
        id: "aes",
        value_len: 32,
        wrap: true,
        unwrap: true,
        derive: true,
        extractable: true
      )

    {:ok, wrapped} = Pkcs11Pool.wrap_key(other, "aes", :aes_key_wrap, "aes")
    {:ok, objects} = Pkcs11Pool.find_objects(pool, [])
    assert length(objects) == 6
    %{cert: certificate} = :public_key.pkix_test_root_cert(~c"a", [])
    rsa = Pkcs11Pool.public_key!(pool, "rsa")

    named = [
      {:public_key, rsa},
      {:public_key, Pkcs11Pool.public_key!(pool, "ec")},
      {:public_key, :public_key.pem_encode([:public_key.pem_entry_encode(:RSAPublicKey, rsa)])},
      {:certificate, certificate},
      {:certificate, :public_key.pkix_decode_cert(certificate, :otp)}
    ]

    ec = :public_key.generate_key({:namedCurve, :secp256r1})
    rsa = :public_key.generate_key({:rsa, 1024, 65_537})
    entry = :public_key.pem_entry_encode(:RSAPrivateKey, rsa)
    private_keys = [ec, rsa, entry, elem(entry, 1), :public_key.pem_encode([entry])]

    prepared =
      for {operation, key, mechanism} <- [
            {:sign, "generic", :sha256_hmac},
            {:sign, "ec", {:ecdsa, hash: :sha256}},
            {:verify, "ec", :ecdsa},
            {:verify, "rsa", :sha256_rsa_pkcs},
            {:encrypt, "aes", :aes_ecb},
            {:encrypt, "rsa", :rsa_pkcs},
            {:decrypt, "aes", :aes_ecb},
            {:decrypt, "aes", {:aes_ctr, counter_block: <<0::128>>}},
            {:digest, nil, :sha256}
          ],
          do: Pkcs11Pool.prepare!(pool, operation, key, mechanism)

    %{
      pool: pool,
      other: other,
      prepared: Enum.group_by(prepared, & &1.operation),
      objects: objects,
      named: named,
      private_keys: private_keys,
      wrapped: wrapped
    }
  end

  # {function, the names of its arguments}, the longest form.
  {:docs_v1, _, _, _, _, _, docs} = Code.fetch_docs(Pkcs11Pool)

  @functions (for {{:function, name, arity}, _, [signature], _, _} <- docs do
                [_all, arguments] = Regex.run(~r/\((.*)\)/s, signature)

                names =
                  for argument <- String.split(arguments, ", ", trim: true),
                      do: argument |> String.split(" \\\\ ") |> hd()

                optional = length(String.split(arguments, "\\\\")) - 1
                true = length(names) == arity
                {name, names, optional}
              end)

  test "the documentation has all functions" do
    documented = for {name, _names, _optional} <- @functions, uniq: true, do: name

    assert Enum.sort(documented) ==
             Pkcs11Pool.__info__(:functions) |> Keyword.keys() |> Enum.uniq()

    assert :sign_many in documented and :sign_many! in documented
  end

  if OTPLibrary.load(:proper) do
    for {name, names, optional} <- @functions do
      test "#{name}(#{Enum.join(names, ", ")}) takes any term", context do
        # A start that fails, does so by an exit, too.
        if unquote(name) == :start_link, do: Process.flag(:trap_exit, true)
        cases = if unquote(name) in @slow, do: div(@cases, 10), else: @cases
        arguments = arguments(unquote(name), unquote(names), unquote(optional), context)

        seen = :counters.new(2, [])

        property =
          :proper.forall(arguments, fn arguments ->
            result = call(unquote(name), arguments)
            :counters.add(seen, if(good?(result), do: 1, else: 2), 1)
            documented?(unquote(name), arguments, result) or explain(result)
          end)

        result = :proper.quickcheck(property, [:quiet, :long_result, numtests: cases])
        assert result == true
        assert :counters.get(seen, 1) + :counters.get(seen, 2) == cases
        # Neither do all fail at the same hurdle.
        assert :counters.get(seen, 1) > 0 or unquote(name) in @never_good
        assert :counters.get(seen, 2) > 0 or unquote(names) == []
        {:messages, messages} = Process.info(self(), :messages)
        assert Enum.reject(messages, &match?({:EXIT, _pid, _reason}, &1)) == []
        for pool <- [context.pool, context.other], do: Pools.drained!(pool)
      end
    end
  else
    @tag skip: "the library PropEr is not installed: run script/bootstrap"
    test "functions take any term"
  end

  defp call(name, arguments) do
    result = apply(Pkcs11Pool, name, arguments)
    # A lazy stream does nothing before it is enumerated.
    {:returned, if(name in @lazy, do: Enum.to_list(result), else: result)}
  rescue
    error -> {:raised, error, __STACKTRACE__}
  catch
    kind, reason -> {:caught, kind, reason}
  end

  defp good?({:returned, {:error, _error}}), do: false
  defp good?({how, _result}), do: how == :returned
  defp good?(_raised), do: false

  defp explain(result) do
    IO.puts(["got: ", inspect(result, limit: 20, printable_limit: 200)])
    false
  end

  ## What may come back

  defp documented?(_name, _arguments, {:raised, %ArgumentError{message: message}, _stack}),
    do: is_binary(message) and ours?(message)

  defp documented?(name, _arguments, {:raised, %Error{} = error, _stack}),
    do: (name in [:status | @lazy] or bang?(name)) and well_formed?(error)

  defp documented?(_name, _arguments, {:returned, {:error, %Error{} = error}}),
    do: well_formed?(error)

  defp documented?(:start_link, _arguments, {:returned, {:ok, pid}}), do: is_pid(pid)

  defp documented?(name, arguments, {:returned, result}) do
    if bang?(name) do
      plain = name |> Atom.to_string() |> String.trim_trailing("!") |> String.to_existing_atom()
      success?(plain, arguments, {:ok, result}) or success?(plain, arguments, result)
    else
      success?(name, arguments, result)
    end
  end

  defp documented?(_name, _arguments, _other), do: false

  # Not one of Erlang's functions: those say nothing of what is wrong.
  defp ours?(message),
    do: message not in ["argument error", "errors were found at the given arguments:"]

  defp bang?(name), do: name |> Atom.to_string() |> String.ends_with?("!")

  defp well_formed?(error),
    do:
      is_atom(error.reason) and error.executed in [true, false, :unknown] and
        is_binary(Exception.message(error))

  defp success?(name, _arguments, {:ok, value})
       when name in [
              :sign,
              :decrypt,
              :digest,
              :digest_key,
              :generate_random,
              :sign_stream,
              :digest_stream
            ],
       do: is_binary(value)

  defp success?(name, _arguments, parts) when name in @lazy,
    do: is_list(parts) and Enum.all?(parts, &is_binary/1)

  defp success?(name, _arguments, {:ok, {iv, bytes}}) when name in [:encrypt, :wrap_key],
    do: is_binary(iv) and is_binary(bytes)

  defp success?(name, _arguments, {:ok, bytes}) when name in [:encrypt, :wrap_key],
    do: is_binary(bytes)

  defp success?(name, _arguments, {:ok, %Object{}})
       when name in [
              :generate_key,
              :create_object,
              :import_private_key,
              :copy_object,
              :unwrap_key,
              :derive_key,
              :decapsulate
            ],
       do: true

  defp success?(:encapsulate, _arguments, {:ok, {ciphertext, %Object{}}}),
    do: is_binary(ciphertext)

  defp success?(:generate_key_pair, _arguments, {:ok, {%Object{}, %Object{}}}), do: true

  defp success?(name, _arguments, {:ok, list}) when name in [:find_objects, :find_certificates],
    do: Enum.all?(list, &is_struct(&1, Object))

  defp success?(:object_size, _arguments, {:ok, size}),
    do: is_integer(size) or size == :unavailable

  defp success?(:get_attributes, _arguments, {:ok, map}), do: is_map(map)
  defp success?(:public_key, _arguments, {:ok, key}), do: is_tuple(key)
  defp success?(:key_info, _arguments, {:ok, info}), do: is_map(info)
  defp success?(:prepare, _arguments, {:ok, %Prepared{}}), do: true
  defp success?(:drain, _arguments, {:ok, left}), do: is_integer(left)
  defp success?(:mechanisms, _arguments, {:ok, list}), do: is_list(list)
  defp success?(:token_info, _arguments, {:ok, info}), do: is_map(info)
  defp success?(name, _arguments, map) when name in [:status, :child_spec], do: is_map(map)

  defp success?(:with_session, [_pool, fun | _opts], result),
    do: result == :done or (is_function(fun) and is_boolean(result))

  defp success?(:start_link, _arguments, {:error, {:already_started, pid}}), do: is_pid(pid)

  defp success?(name, arguments, {:ok, results})
       when name in [:sign_many, :verify_many, :encrypt_many, :decrypt_many] do
    # Behind pool, key and mechanism, or behind what is prepared.
    list = Enum.at(arguments, 3) || Enum.at(arguments, 1)

    length(results) == length(list) and
      Enum.all?(results, fn
        {:ok, _value} -> true
        {:error, %Error{} = error} -> well_formed?(error)
      end)
  end

  defp success?(_name, _arguments, :ok), do: true

  # Functions that this test does not know.
  defp success?(name, _arguments, {:ok, _value}), do: name not in known()
  defp success?(_name, _arguments, _other), do: false

  defp known do
    ~w(prepare sign verify encrypt decrypt digest digest_key generate_random generate_key generate_key_pair find_objects find_certificates get_attributes public_key key_info drain
       mechanisms token_info sign_many verify_many encrypt_many decrypt_many
       sign_stream verify_stream digest_stream encrypt_stream decrypt_stream status child_spec with_session resize login logout
       await_ready forget_keys destroy_object object_size create_object import_private_key copy_object set_attributes unwrap_key derive_key wrap_key
       encapsulate decapsulate)a
  end

  ## Arguments

  # With all arguments, or without some of those that have defaults.
  defp arguments(name, names, optional, context) do
    types = Enum.map(names, &argument(&1, name, context))
    Gen.oneof(for left_out <- 0..optional, do: Gen.fixed_list(Enum.drop(types, -left_out)))
  end

  defp argument(argument, name, context) do
    good = good(argument, plain(name), context)
    Gen.frequency([{12, good}, {3, mutated(good)}, {1, random()}])
  end

  defp plain(name),
    do: name |> Atom.to_string() |> String.trim_trailing("!") |> String.to_existing_atom()

  # Never the pool that other cases need.
  defp good("pool", :drain, _context), do: Gen.oneof([:nobody, "nobody"])
  defp good("pool", name, context) when name in @of_whole_pool, do: context.other
  defp good("pool", _name, context), do: context.pool

  defp good("prepared", name, %{prepared: prepared}) do
    operation =
      name |> Atom.to_string() |> String.trim_trailing("_many") |> String.to_existing_atom()

    Gen.oneof(Map.fetch!(prepared, operation))
  end

  defp good("operation", :prepare, _context),
    do: Gen.oneof([:sign, :verify, :encrypt, :decrypt, :digest])

  defp good("key", :prepare, context),
    do: Gen.frequency([{4, good("key", :sign, context)}, {1, nil}])

  defp good("object", name, _context)
       when name in [:destroy_object, :copy_object, :set_attributes],
       do: Gen.oneof(["nobody", [label: "nobody"]])

  defp good("key", :import_private_key, %{private_keys: keys}), do: Gen.oneof(keys)

  defp good("template", :import_private_key, _context),
    do: [token: true, label: "made", private: true, sign: true]

  defp good("template", :create_object, _context),
    do: Gen.oneof([[class: :data, token: true, value: "data"], [class: :data, token: true]])

  defp good(argument, _name, %{objects: objects} = context)
       when argument in ["key", "object", "public_key", "private_key"] do
    labels = ["ec", "rsa", "aes", "generic"]

    Gen.oneof([
      Gen.oneof(objects),
      Gen.oneof(labels),
      Gen.oneof(for label <- labels, do: [label: label]),
      Gen.oneof(for label <- labels, do: "pkcs11:object=" <> label),
      Gen.oneof(context.named)
    ])
  end

  defp good("wrapping_key", _name, context),
    do: Gen.frequency([{3, "aes"}, {1, good("key", :wrap_key, context)}])

  # What is made by the dozen may have its label, but not its id.
  defp good(argument, _name, _context) when argument in ["unwrapping_key", "base_key"],
    do: [id: "aes"]

  defp good("wrapped", _name, context), do: context.wrapped

  defp good("template", :unwrap_key, _context),
    do: [class: :secret_key, key_type: :aes, token: true, label: "made", sensitive: true]

  defp good("template", :derive_key, _context),
    do: [class: :secret_key, key_type: :aes, token: true, label: "made", value_len: 32]

  defp good("mechanism", name, _context), do: mechanism(name)

  defp good("data", _name, _context),
    do: Gen.oneof([Gen.binary(), Gen.binary(32), [<<1>>, ["a"]]])

  defp good("enumerable", _name, _context),
    do: Gen.list(Gen.oneof([Gen.binary(), Gen.binary(16), [<<1>>, ["a"]]]))

  defp good("signature", _name, _context), do: Gen.oneof([Gen.binary(64), Gen.binary(128)])

  defp good("list", :verify_many, _context),
    do: Gen.list({Gen.binary(32), Gen.oneof([Gen.binary(64), Gen.binary(128)])})

  defp good("list", name, _context) when name in [:encrypt_many, :decrypt_many],
    do: Gen.list(Gen.oneof([Gen.binary(16), {[iv: Gen.binary(16)], Gen.binary(16)}]))

  defp good("list", _name, _context), do: Gen.list(Gen.binary(32))

  defp good("template", :find_certificates, _context) do
    Gen.oneof([
      [],
      [label: "certificate"],
      [id: <<1>>, subject: [common_name: "a"]],
      [serial_number: 7, issuer: {:rdnSequence, []}]
    ])
  end

  defp good("template", name, _context) when name in [:find_objects] do
    Gen.oneof([[], [label: "ec"], [class: :secret_key], [id: <<1>>]])
  end

  defp good("template", _name, _context),
    do: [token: true, label: "made", value_len: 16, sensitive: true, sign: true]

  defp good("public_template", _name, _context),
    do: [token: true, label: "made", ec_params: :secp256r1, verify: true]

  defp good("private_template", _name, _context),
    do: [token: true, label: "made", private: true, sign: true]

  defp good("names", _name, _context),
    do:
      Gen.list(
        Gen.oneof([:label, :id, :class, :key_type, :value, :modulus, {:vendor, 0x80000001}])
      )

  defp good("n", :resize, _context), do: Gen.integer(1, 4)
  defp good("n", _name, _context), do: Gen.integer(0, 100)
  defp good("timeout", _name, _context), do: Gen.oneof([0, 1, 100])
  defp good("fun", _name, _context), do: Gen.oneof([fn -> :done end, fn _lease -> :done end])

  defp good(argument, _name, _context) when argument in ["pin_source", "source"],
    do: Gen.oneof([fn -> "1234" end, fn -> "0000" end, {:env, "NONE"}])

  defp good("ciphertext", _name, _context),
    do: Gen.oneof([Gen.binary(768), Gen.binary(1_088), [<<1>>, ["a"]]])

  defp good("seed", _name, _context), do: Gen.binary()

  defp good("options", _name, _context) do
    [
      name: :random_terms,
      module: "/nonexistent.so",
      slot: {:token_label, "a"},
      pin: fn -> "1" end,
      pool_size: 2
    ]
  end

  defp good("opts", _name, _context) do
    Gen.oneof([
      [],
      [queue_timeout: 10_000],
      [operation_timeout: 10_000, telemetry_metadata: %{a: 1}],
      [signature: :raw],
      [signature: :der],
      [partial: true],
      [session_object: :allow],
      [select: :newest],
      [select: &List.last/1],
      [force: true]
    ])
  end

  defp good(_unknown, _name, _context), do: random()

  defp mechanism(:prepare),
    do: Gen.oneof([mechanism(:sign), mechanism(:encrypt), mechanism(:digest)])

  defp mechanism(:digest_stream), do: mechanism(:digest)
  defp mechanism(:digest), do: Gen.oneof([:sha256, :sha_1, :sha512])
  defp mechanism(:digest_key), do: Gen.oneof([:sha256, :sha_1])
  defp mechanism(:generate_key), do: Gen.oneof([:aes_key_gen, :generic_secret_key_gen])
  defp mechanism(:generate_key_pair), do: :ec_key_pair_gen

  defp mechanism(:unwrap_key), do: :aes_key_wrap

  defp mechanism(:derive_key),
    do:
      Gen.frequency([
        {4, {:aes_ecb_encrypt_data, data: Gen.binary(32)}},
        {1, {:hkdf_derive, hash: :sha256, salt: Gen.oneof([Gen.binary(), {:key, "aes"}])}},
        {1, {:concatenate_base_and_key, key: [id: "aes"]}},
        {1, {:ecdh1_derive, public_data: Gen.binary(65)}}
      ])

  defp mechanism(:wrap_key),
    do: Gen.oneof([:aes_key_wrap, :aes_key_wrap_pad, :rsa_pkcs, {:rsa_pkcs_oaep, hash: :sha1}])

  defp mechanism(name) when name in [:encapsulate, :decapsulate],
    do: Gen.oneof([:ml_kem, :rsa_pkcs, {:rsa_pkcs_oaep, hash: :sha256}])

  # Whatever fits the key is found by chance; what decrypts any bytes comes more often, lest no stream of random bytes is ever decrypted.
  defp mechanism(name) do
    for_name =
      if name in [:sign, :verify, :sign_many, :verify_many, :sign_stream, :verify_stream],
        do: signatures(),
        else: ciphers() ++ List.duplicate(List.keyfind!(ciphers(), :aes_ctr, 0), 3)

    Gen.frequency([
      {4, Gen.oneof(for_name)},
      {1, Gen.oneof(ciphers() ++ signatures() ++ others())}
    ])
  end

  defp signatures do
    [
      :ecdsa,
      {:ecdsa, hash: :sha256},
      {:rsa_pkcs, hash: :sha256},
      :rsa_pkcs,
      :rsa_x_509,
      :sha256_rsa_pkcs,
      :sha256_rsa_pkcs_pss,
      {:rsa_pkcs_pss, hash: :sha256},
      :sha256_hmac,
      :aes_cmac,
      :dsa,
      :dsa_sha256,
      {:vendor, 0x11, nil},
      {:vendor, 0x1041, nil}
    ]
  end

  defp ciphers do
    [
      :aes_ecb,
      {:aes_gcm, iv: Gen.binary(12)},
      {:aes_gcm, iv: :token},
      {:aes_ccm, nonce: :token},
      {:aes_cbc, iv: Gen.binary(16)},
      :aes_cbc_pad,
      {:aes_ctr, counter_block: Gen.binary(16)},
      {:rsa_pkcs_oaep, hash: :sha1},
      :rsa_pkcs
    ]
  end

  defp others do
    [
      :eddsa,
      :sha256,
      {:des3_cbc, iv: Gen.binary(8)},
      {:rsa_pkcs_oaep, hash: :sha256},
      {:vendor, 0x80000001, {:rsa_pkcs_pss, hash: :sha256}},
      :rs256,
      "ES256"
    ]
  end

  ## Bad terms

  defp mutated(good) do
    Gen.bind(
      {good, random(), Gen.integer(0, 20)},
      fn {good, term, place} -> good |> replace(term, place) |> elem(0) end,
      false
    )
  end

  # The term with the part of this number replaced, and how many parts are left to be counted.
  defp replace(_part, term, 0), do: {term, :done}
  defp replace(part, _term, :done), do: {part, :done}

  defp replace(list, term, place) when is_list(list) and length(list) >= 0,
    do: Enum.map_reduce(list, place - 1, &replace(&1, term, &2))

  defp replace(tuple, term, place) when is_tuple(tuple) do
    {list, left} = tuple |> Tuple.to_list() |> replace(term, place)
    {if(is_list(list), do: List.to_tuple(list), else: list), left}
  end

  defp replace(%module{} = struct, term, place) do
    {list, left} =
      struct
      |> Map.from_struct()
      |> Enum.map_reduce(place - 1, fn {key, value}, place ->
        {value, place} = replace(value, term, place)
        {{key, value}, place}
      end)

    {struct(module, list), left}
  end

  defp replace(part, _term, place), do: {part, place - 1}

  defp random do
    Gen.frequency([
      {4, Gen.any()},
      {6, Gen.oneof(odd_terms())}
    ])
  end

  defp odd_terms do
    [
      nil,
      true,
      "",
      "pkcs11:",
      "pkcs11:%",
      <<255, 254>>,
      <<1::3>>,
      [1 | 2],
      [{:a, 1} | :b],
      ~c"charlist",
      [256],
      -1,
      0,
      1.5,
      0xFFFFFFFFFFFFFFFF,
      0x10000000000000000,
      -0x10000000000000000,
      :infinity,
      :token,
      {},
      {:vendor, 1},
      {:vendor, -1, nil},
      {:vendor, 0x80000001, {:vendor, 1, nil}},
      %{},
      %{label: "ec"},
      struct(Object),
      struct(Prepared),
      struct(Pkcs11Pool.Lease, pool: :nobody),
      %Pkcs11Pool.Lease{pool: :nobody, holder: self(), native: make_ref(), entry: %{}},
      MapSet.new([1]),
      1..2,
      self(),
      make_ref(),
      &is_atom/1,
      [label: nil],
      [label: "ec", label: "rsa"],
      [ec_params: :nonsense],
      [iv: "short"],
      [hash: :sha256, hash: :sha1]
    ]
  end
end
