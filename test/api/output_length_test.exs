defmodule Pkcs11Pool.OutputLengthTest do
  # What a module says of the length of its answer is believed only if it can be.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  # As long as the first buffer would be for nothing at all, and longer.
  @sizes [0, 1, 225, 1024, 1025, 5_000]
  @iv "1234567890123456"

  setup_all do
    %{chaos: chaos} = token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(chaos) end)
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 1)})
    key = [token: true, private: true, sensitive: false, extractable: true]
    aes = key ++ [label: "aes", value_len: 32, encrypt: true, decrypt: true]
    mac = key ++ [label: "mac", value_len: 64, sign: true, verify: true]
    {:ok, _} = Pkcs11Pool.generate_key(pool, :aes_key_gen, aes)
    {:ok, _} = Pkcs11Pool.generate_key(pool, :generic_secret_key_gen, mac)
    Pools.key_pair!(pool, "ec")
    {:ok, %{value: value}} = Pkcs11Pool.get_attributes(pool, "aes", [:value])
    %{pool: pool, chaos: chaos, aes: value}
  end

  setup %{pool: pool, chaos: chaos} do
    Chaos.reset(chaos)
    on_exit(fn -> Pools.drained!(pool) end)
  end

  defp ctr, do: {:aes_ctr, counter_block: @iv}
  defp gcm, do: {:aes_gcm, iv: "123456789012"}

  defp cases(pool) do
    data = :binary.copy("x", 225)
    {:ok, streamed} = Pkcs11Pool.encrypt(pool, "aes", ctr(), data)
    {:ok, padded} = Pkcs11Pool.encrypt(pool, "aes", {:aes_cbc_pad, iv: @iv}, data)

    [
      C_Encrypt: fn -> Pkcs11Pool.encrypt(pool, "aes", ctr(), data) end,
      C_Encrypt: fn -> Pkcs11Pool.encrypt(pool, "aes", gcm(), data) end,
      C_Encrypt: fn -> Pkcs11Pool.encrypt(pool, "aes", {:aes_cbc_pad, iv: @iv}, data) end,
      C_Decrypt: fn -> Pkcs11Pool.decrypt(pool, "aes", ctr(), streamed) end,
      C_Decrypt: fn -> Pkcs11Pool.decrypt(pool, "aes", {:aes_cbc_pad, iv: @iv}, padded) end,
      C_Sign: fn -> Pkcs11Pool.sign(pool, "mac", :sha256_hmac, data) end,
      C_Sign: fn -> Pkcs11Pool.sign(pool, "ec", :ecdsa, <<1::256>>) end,
      C_Sign: fn -> Pkcs11Pool.sign(pool, "ec", :ecdsa, <<1::256>>, signature: :der) end,
      C_Digest: fn -> Pkcs11Pool.digest(pool, :sha256, data) end,
      # A number that nothing is known of but that it is 32 bytes long here.
      C_Digest: fn -> Pkcs11Pool.digest(pool, {:vendor, 0x250, nil}, data) end
    ]
  end

  for told <- [:kept, :exceeded] do
    test "a length that is #{told} is no answer", %{pool: pool, chaos: chaos} do
      for {function, call} <- cases(pool) do
        Chaos.told_size(chaos, function, unquote(told))
        Chaos.reset_counts(chaos)

        assert {:error, %Error{reason: :output_length_invalid} = error} = call.()
        assert {error.executed, error.function, error.code} == {true, function, nil}
        assert Exception.message(error) =~ "#{function} returned CKR_OK"
        refute Error.retryable?(error)
        # It ran: it is not tried again.
        assert Chaos.calls(chaos, function) == 1

        Chaos.told_size(chaos, function, true)
        assert {:ok, _answer} = call.()
      end
    end
  end

  test "a session is kept if only the length was", %{pool: pool, chaos: chaos} do
    {:ok, _} = Pkcs11Pool.digest(pool, :sha256, "")
    Pools.drained!(pool)

    for {told, closed} <- [kept: 0, exceeded: 1] do
      Chaos.reset_counts(chaos)
      Chaos.told_size(chaos, :C_Digest, told)

      assert {:error, %Error{reason: :output_length_invalid}} =
               Pkcs11Pool.digest(pool, :sha256, "")

      Pools.drained!(pool)
      assert Chaos.calls(chaos, :C_CloseSession) == closed
    end
  end

  test "a length is what it is again after a reset", %{pool: pool, chaos: chaos} do
    Chaos.told_size(chaos, :C_Digest, :exceeded)
    Chaos.reset(chaos)
    assert {:ok, _digest} = Pkcs11Pool.digest(pool, :sha256, "")
  end

  test "of a list, none of the others is harmed", %{pool: pool, chaos: chaos} do
    list = for n <- 1..3, do: {[counter_block: <<n::128>>], "item #{n}"}

    for told <- [:kept, :exceeded] do
      Chaos.told_size(chaos, :C_Encrypt, told)
      assert {:ok, results} = Pkcs11Pool.encrypt_many(pool, "aes", :aes_ctr, list)

      assert [:output_length_invalid] ==
               Enum.uniq(for {:error, error} <- results, do: error.reason)

      assert length(results) == 3
      Chaos.told_size(chaos, :C_Encrypt, true)

      assert {:ok, [{:ok, _}, {:ok, _}, {:ok, _}]} =
               Pkcs11Pool.encrypt_many(pool, "aes", :aes_ctr, list)
    end
  end

  test "answers of every size are what they were", %{pool: pool, aes: aes} do
    for size <- @sizes, data = :binary.copy("x", size) do
      streamed = :crypto.crypto_one_time(:aes_256_ctr, aes, @iv, data, true)
      assert Pkcs11Pool.encrypt(pool, "aes", ctr(), data) == {:ok, streamed}
      assert Pkcs11Pool.decrypt(pool, "aes", ctr(), streamed) == {:ok, data}

      padded =
        :crypto.crypto_one_time(:aes_256_cbc, aes, @iv, data,
          encrypt: true,
          padding: :pkcs_padding
        )

      assert Pkcs11Pool.encrypt(pool, "aes", {:aes_cbc_pad, iv: @iv}, data) == {:ok, padded}
      assert Pkcs11Pool.decrypt(pool, "aes", {:aes_cbc_pad, iv: @iv}, padded) == {:ok, data}
      assert Pkcs11Pool.digest(pool, :sha512, data) == {:ok, :crypto.hash(:sha512, data)}
    end
  end
end
