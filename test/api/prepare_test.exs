defmodule Pkcs11Pool.PrepareTest do
  # What is prepared does what the call with all arguments does, and is refused where it could do something else.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Prepared}
  alias Pkcs11Pool.Test.{Poll, Pools, SoftHSM}

  @digest :crypto.hash(:sha256, "what is to be signed")
  @value :binary.copy(<<7>>, 32)

  setup_all do
    token = SoftHSM.spy!(SoftHSM.new_token!())
    options = SoftHSM.pool_opts(token, pool_size: 2)
    start_supervised!({Pkcs11Pool, options})
    pool = options[:name]
    Pools.key_pair!(pool, "ec")

    Pools.rsa_pair!(pool)

    secret!(pool, "mac", :generic_secret, sign: true, verify: true)
    secret!(pool, "aes", :aes, encrypt: true, decrypt: true)
    %{pool: pool, token: token}
  end

  setup %{pool: pool} do
    on_exit(fn -> Pools.drained!(pool) end)
  end

  defp secret!(pool, label, key_type, usage, value \\ @value) do
    Pkcs11Pool.create_object!(
      pool,
      [class: :secret_key, key_type: key_type, value: value, label: label, token: true] ++ usage
    )
  end

  defp mac(data, key \\ @value), do: :crypto.mac(:hmac, :sha256, key, data)

  describe "what is prepared for" do
    test ":sign signs", %{pool: pool} do
      prepared = Pkcs11Pool.prepare!(pool, :sign, "mac", :sha256_hmac)
      assert Pkcs11Pool.sign(prepared, "data") == {:ok, mac("data")}
      assert Pkcs11Pool.sign!(prepared, ["da", "ta"]) == mac("data")

      assert Pkcs11Pool.sign_many(prepared, ["a", ["b"]]) == {:ok, [ok: mac("a"), ok: mac("b")]}
      assert Pkcs11Pool.sign_many!(prepared, []) == []
    end

    test ":sign and :verify takes and gives ECDSA signatures in the form that was prepared", %{
      pool: pool
    } do
      public_key = Pkcs11Pool.public_key!(pool, "ec")

      for {form, other} <- [raw: :der, der: :raw] do
        opts = [signature: form]
        sign = Pkcs11Pool.prepare!(pool, :sign, "ec", :ecdsa, opts)
        verify = Pkcs11Pool.prepare!(pool, :verify, "ec", :ecdsa, opts)
        signature = Pkcs11Pool.sign!(sign, @digest)

        if form == :der,
          do: assert(:public_key.verify({:digest, @digest}, :sha256, signature, public_key)),
          else: assert(byte_size(signature) == 64)

        assert Pkcs11Pool.verify(verify, @digest, signature) == :ok
        assert Pkcs11Pool.verify!(verify, @digest, [signature]) == :ok
        assert {:ok, [ok: second]} = Pkcs11Pool.sign_many(sign, [@digest])

        of_other_form = Pkcs11Pool.sign!(pool, "ec", :ecdsa, @digest, signature: other)

        assert {:ok, results} =
                 Pkcs11Pool.verify_many(verify, [
                   {@digest, second},
                   {@digest, of_other_form},
                   {:crypto.hash(:sha256, "other"), second}
                 ])

        assert [{:ok, true}, {:error, wrong_form}, {:error, wrong_data}] = results
        assert {wrong_form.reason, wrong_data.reason} == {:signature_invalid, :signature_invalid}

        assert {:error, %Error{reason: :signature_invalid}} =
                 Pkcs11Pool.verify(verify, @digest, of_other_form)
      end
    end

    test ":encrypt and :decrypt encrypts and decrypts", %{pool: pool} do
      block = :binary.copy("b", 32)

      for {encrypting, decrypting, mechanism} <- [
            {"aes", "aes", :aes_ecb},
            {"rsa", "rsa", {:rsa_pkcs_oaep, hash: :sha1}}
          ] do
        encrypt = Pkcs11Pool.prepare!(pool, :encrypt, encrypting, mechanism)
        decrypt = Pkcs11Pool.prepare!(pool, :decrypt, decrypting, mechanism)
        ciphertext = Pkcs11Pool.encrypt!(encrypt, block)
        assert Pkcs11Pool.decrypt!(pool, decrypting, mechanism, ciphertext) == block
        assert Pkcs11Pool.decrypt(decrypt, ciphertext) == {:ok, block}
        assert {:ok, [ok: one, ok: two]} = Pkcs11Pool.encrypt_many(encrypt, [block, [block]])
        assert Pkcs11Pool.decrypt_many!(decrypt, [one, two]) == [ok: block, ok: block]
      end
    end

    test ":decrypt may have an IV, which is for all ciphertexts", %{pool: pool} do
      mechanism = {:aes_cbc_pad, iv: <<1::128>>}
      ciphertext = Pkcs11Pool.encrypt!(pool, "aes", mechanism, "data")
      prepared = Pkcs11Pool.prepare!(pool, :decrypt, "aes", mechanism)
      assert Pkcs11Pool.decrypt!(prepared, ciphertext) == "data"
    end

    test ":digest computes digests", %{pool: pool} do
      prepared = Pkcs11Pool.prepare!(pool, :digest, nil, :sha256)
      assert Pkcs11Pool.digest(prepared, ["da", "ta"]) == {:ok, :crypto.hash(:sha256, "data")}
      assert Pkcs11Pool.digest!(prepared, "") == :crypto.hash(:sha256, "")
    end
  end

  test "a use makes no other C call than that of the operation, from the first one on", %{
    pool: pool,
    token: token
  } do
    prepared = Pkcs11Pool.prepare!(pool, :sign, "mac", :sha256_hmac)
    before = SoftHSM.calls(token)
    for _ <- 1..5, do: Pkcs11Pool.sign!(prepared, "data")
    made = calls_since(token, before)
    assert made == %{"C_SignInit" => 5, "C_Sign" => 5}
  end

  defp calls_since(token, before) do
    for {function, count} <- SoftHSM.calls(token),
        more = count - Map.get(before, function, 0),
        more > 0,
        into: %{},
        do: {function, more}
  end

  test "any process may use it, many at a time, and a block's session is used within with_session/3",
       %{pool: pool} do
    prepared = Pkcs11Pool.prepare!(pool, :sign, "mac", :sha256_hmac)

    1..50
    |> Task.async_stream(&assert(Pkcs11Pool.sign!(prepared, "#{&1}") == mac("#{&1}")))
    |> Enum.each(&assert match?({:ok, true}, &1))

    other = occupy(pool, 1)

    Pkcs11Pool.with_session(pool, fn ->
      assert Pkcs11Pool.status(pool).leased == 2
      assert Pkcs11Pool.sign!(prepared, "data", queue_timeout: 0) == mac("data")
    end)

    go_on(other)
  end

  test "errors of key and pool show when it is prepared", %{pool: pool} do
    for {operation, key, mechanism, reason} <- [
          {:sign, "nothing", :sha256_hmac, :key_not_found},
          {:verify, [label: "nothing"], :ecdsa, :key_not_found},
          {:sign, [label: "ec", class: :private_key], :sha256_hmac, :key_type_inconsistent},
          {:encrypt, [label: "ec", class: :private_key], :rsa_pkcs, :key_type_inconsistent},
          {:sign, "ec", {:ecdsa, hash: :sha256, curve: :secp384r1}, :key_type_inconsistent},
          {:sign, "pkcs11:token=other;object=mac", :sha256_hmac, :object_of_other_token}
        ] do
      assert {:error, %Error{reason: ^reason, pool: ^pool, executed: false}} =
               Pkcs11Pool.prepare(pool, operation, key, mechanism)

      assert_raise Error, fn -> Pkcs11Pool.prepare!(pool, operation, key, mechanism) end
    end

    for {operation, key, mechanism} <- [{:sign, "mac", :sha256_hmac}, {:digest, nil, :sha256}] do
      assert {:error, %Error{reason: :pool_not_found}} =
               Pkcs11Pool.prepare(:nobody, operation, key, mechanism)
    end

    for id <- [<<1>>, <<2>>], do: secret!(pool, "twins", :generic_secret, id: id, sign: true)

    assert {:error, %Error{reason: :ambiguous_key}} =
             Pkcs11Pool.prepare(pool, :sign, "twins", :sha256_hmac)
  end

  test "a function as :select chooses once, when it is prepared", %{pool: pool} do
    for {id, byte} <- [{<<1>>, 1}, {<<2>>, 2}] do
      value = :binary.copy(<<byte>>, 32)
      secret!(pool, "versions", :generic_secret, [id: id, sign: true], value)
    end

    test = self()

    select = fn candidates ->
      send(test, :asked)
      Enum.find(candidates, &(&1.id == <<2>>))
    end

    prepared = Pkcs11Pool.prepare!(pool, :sign, "versions", :sha256_hmac, select: select)

    for _ <- 1..3,
        do: assert(Pkcs11Pool.sign!(prepared, "data") == mac("data", :binary.copy(<<2>>, 32)))

    assert_received :asked
    refute_received :asked

    assert {:error, %Error{reason: :key_not_found}} =
             Pkcs11Pool.prepare(pool, :sign, "versions", :sha256_hmac, select: fn _ -> nil end)

    assert {:error, %Error{reason: :ambiguous_key}} =
             Pkcs11Pool.prepare(pool, :sign, "versions", :sha256_hmac, select: :newest)
  end

  test "options are for each use, and those of a use come before them", %{pool: pool} do
    opts = [queue_timeout: 0, operation_timeout: 30_000]
    prepared = Pkcs11Pool.prepare!(pool, :sign, "mac", :sha256_hmac, opts)
    leases = occupy(pool, 2)

    assert {:error, %Error{reason: :queue_timeout}} = Pkcs11Pool.sign(prepared, "data")

    assert {:ok, [{:error, %Error{reason: :queue_timeout}}]} =
             Pkcs11Pool.sign_many(prepared, ["data"])

    waiting = Task.async(fn -> Pkcs11Pool.sign(prepared, "data", queue_timeout: 30_000) end)
    Poll.until(fn -> Pkcs11Pool.status(pool).waiting == 1 end)
    go_on(leases)
    assert Task.await(waiting) == {:ok, mac("data")}
  end

  # Processes that have all sessions for themselves until they are told to go on.
  defp occupy(pool, count) do
    test = self()

    leases =
      for _ <- 1..count do
        Task.async(fn ->
          Pkcs11Pool.with_session(pool, fn ->
            send(test, :leased)
            receive do: (:go_on -> :ok)
          end)
        end)
      end

    for _ <- 1..count, do: assert_receive(:leased, 30_000)
    leases
  end

  defp go_on(leases) do
    Enum.each(leases, &send(&1.pid, :go_on))
    Task.await_many(leases)
  end

  describe "it raises ArgumentError" do
    test "for an IV that would be the same in each use", %{pool: pool} do
      for {operation, key, mechanism} <- [
            {:encrypt, "aes", {:aes_gcm, iv: <<0::96>>}},
            {:encrypt, "aes", {:aes_cbc_pad, iv: <<0::128>>}},
            {:encrypt, "aes", {:aes_ctr, counter_block: <<0::128>>}},
            {:encrypt, "aes", {:aes_ccm, nonce: <<0::96>>}},
            {:encrypt, "aes", {:aes_cbc, <<0::128>>}},
            {:encrypt, "aes", {:chacha20_poly1305, nonce: <<0::96>>}},
            {:encrypt, "aes", {:vendor, 0x80000001, {:aes_gcm, iv: <<0::96>>}}},
            {:encrypt, "aes", {:vendor, 0x80000001, <<0::96>>}},
            {:encrypt, "aes", {:vendor, 0x80000001, {:aes_cbc, <<0::128>>}}},
            {:sign, "aes", {:aes_gmac, <<0::96>>}}
          ] do
        message =
          ~r/cannot be prepared for #{inspect(operation)}: .*must not be used twice with one key; give #{operation}\/5/

        assert_raise ArgumentError, message, fn ->
          Pkcs11Pool.prepare(pool, operation, key, mechanism)
        end
      end
    end

    test "not for one that the token makes", %{pool: pool} do
      prepared = Pkcs11Pool.prepare!(pool, :encrypt, "aes", {:aes_gcm, iv: :token})

      assert {:error, %Error{reason: :iv_not_made}} = Pkcs11Pool.encrypt(prepared, "data")
    end

    test "for another operation than what was prepared, and for what is not prepared", %{
      pool: pool
    } do
      prepared = Pkcs11Pool.prepare!(pool, :sign, "mac", :sha256_hmac)

      for use <- [
            &Pkcs11Pool.verify(&1, "data", mac("data")),
            &Pkcs11Pool.encrypt(&1, "data"),
            &Pkcs11Pool.decrypt(&1, "data"),
            &Pkcs11Pool.digest(&1, "data"),
            &Pkcs11Pool.verify_many(&1, [{"data", mac("data")}]),
            &Pkcs11Pool.encrypt_many(&1, ["data"]),
            &Pkcs11Pool.decrypt_many(&1, ["data"])
          ] do
        assert_raise ArgumentError,
                     ~r/expected what prepare\/5 has made for :\w+, got what it has made for :sign/,
                     fn ->
                       use.(prepared)
                     end

        for other <- [pool, nil, %{}, struct(Prepared)] do
          assert_raise ArgumentError, ~r/expected what prepare\/5 has made for :\w+ \(or/, fn ->
            use.(other)
          end
        end
      end

      # One whose parts somebody has changed.
      for encoded <- [0, nil, {}, {:sha256_hmac, nil}],
          sign <- [&Pkcs11Pool.sign(&1, "data"), &Pkcs11Pool.sign_many(&1, ["data"])] do
        assert_raise ArgumentError, ~r/expected what prepare\/5 has made for :sign \(or/, fn ->
          sign.(%{prepared | encoded: encoded})
        end
      end
    end

    test "on another node than the one on which it was prepared", %{pool: pool} do
      prepared = Pkcs11Pool.prepare!(pool, :sign, "mac", :sha256_hmac)
      # A reference of node a@b.
      native =
        :erlang.binary_to_term(<<131, 90, 3::16, 119, 3, "a@b", 1::32, 1::32, 2::32, 3::32>>)

      assert_raise ArgumentError, ~r/has made on node :a@b is for that node/, fn ->
        Pkcs11Pool.sign(%{prepared | native: native}, "data")
      end
    end

    test "for malformed arguments, before the pool is asked" do
      for {arguments, message} <- [
            {[:nobody, :wrap, "a", :aes_key_wrap], "expected an operation that can be prepared"},
            {[:nobody, :sign, nil, :sha256_hmac], "expected a key"},
            {[:nobody, :sign, "", :sha256_hmac], "identifies no object"},
            {[:nobody, :sign, "a", :sha256], "is a digest, and signs nothing"},
            {[:nobody, :sign, "a", :nonsense], "unknown mechanism :nonsense"},
            {[:nobody, :digest, "a", :sha256], "expected nil in place of the key"},
            {[:nobody, :decrypt, "a", {:aes_gcm, iv: :token}], "is for encryption and wrapping"},
            {[:nobody, :sign, "a", :sha256_hmac, [signature: :der]], "is for ECDSA mechanisms"},
            {[:nobody, :encrypt, "a", :aes_ecb, [signature: :raw]],
             "unknown options [:signature]"},
            {[:nobody, :digest, nil, :sha256, [select: :newest]], "unknown options [:select]"}
          ] do
        error = assert_raise ArgumentError, fn -> apply(Pkcs11Pool, :prepare, arguments) end
        assert Exception.message(error) =~ message
      end
    end

    test "for a use's data and options of the wrong shape", %{pool: pool} do
      sign = Pkcs11Pool.prepare!(pool, :sign, "ec", :ecdsa)
      encrypt = Pkcs11Pool.prepare!(pool, :encrypt, "aes", :aes_ecb)

      for {use, message} <- [
            {fn -> Pkcs11Pool.sign(sign, :data) end, "expected data to be iodata"},
            {fn -> Pkcs11Pool.sign(sign, :binary.copy("m", 100)) end,
             "signs a digest and no message"},
            {fn -> Pkcs11Pool.sign(sign, :binary.copy("m", 60)) end,
             "signs a digest and no message"},
            {fn -> Pkcs11Pool.sign(sign, "", signature: :der) end,
             "unknown options [:signature]"},
            {fn -> Pkcs11Pool.sign(sign, "", queue_timeout: -1) end, ":queue_timeout"},
            {fn -> Pkcs11Pool.sign_many(sign, "data") end, "expected a list"},
            {fn -> Pkcs11Pool.encrypt_many(encrypt, [{[iv: ""], "data"}]) end, "are prepared"}
          ] do
        error = assert_raise ArgumentError, use
        assert Exception.message(error) =~ message
      end
    end

    test "for a lease", %{pool: pool} do
      Pkcs11Pool.with_session(pool, fn lease ->
        assert_raise ArgumentError, ~r/expected the name of a pool, got a lease/, fn ->
          Pkcs11Pool.prepare(lease, :sign, "mac", :sha256_hmac)
        end
      end)
    end
  end

  test "it shows pool, key and mechanism, and nothing that may be secret", %{pool: pool} do
    shown = fn operation, key, mechanism ->
      inspect(Pkcs11Pool.prepare!(pool, operation, key, mechanism))
    end

    name = inspect(pool)

    assert shown.(:sign, "mac", :sha256_hmac) ==
             "#Pkcs11Pool.Prepared<:sign :sha256_hmac with key \"mac\", pool #{name}>"

    assert shown.(:digest, nil, :sha256) == "#Pkcs11Pool.Prepared<:digest :sha256, pool #{name}>"

    assert shown.(
             :decrypt,
             "pkcs11:object=aes?vendor-said=secret",
             {:aes_cbc, iv: "secret secret ??"}
           ) ==
             "#Pkcs11Pool.Prepared<:decrypt :aes_cbc with key \"pkcs11:object=aes\", pool #{name}>"

    by_value = shown.(:sign, [label: "mac", class: :secret_key, value: @value], :sha256_hmac)
    assert by_value =~ ~s(with key [label: "mac", class: :secret_key],)

    public = shown.(:verify, {:public_key, Pkcs11Pool.public_key!(pool, "ec")}, :ecdsa)
    assert public =~ "with key the public key's,"

    [object | _] = Pkcs11Pool.find_objects!(pool, label: "mac")
    assert shown.(:sign, object, :sha256_hmac) =~ "with key " <> inspect(object)
  end
end
