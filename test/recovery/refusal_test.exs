defmodule Pkcs11Pool.RefusalTest do
  # What a token calls a wrong signature or a bad ciphertext makes no difference: it is refused at once, and is no failure of the token.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, ReturnCode}
  alias Pkcs11Pool.Test.{ChaosToken, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @data "what was signed"
  @gcm {:aes_gcm, iv: "123456789012"}

  # What tokens say of a wrong signature or a bad ciphertext. The last one is a vendor's, which the pool was told of.
  @refusals [
    :arguments_bad,
    :data_invalid,
    :data_len_range,
    :encrypted_data_invalid,
    :encrypted_data_len_range,
    :aead_decrypt_failed,
    :signature_invalid,
    :signature_len_range,
    :general_error,
    :function_failed,
    :device_error,
    0x80000123
  ]

  setup do
    %{token: token, chaos: chaos} = ChaosToken.for_test!()
    pool = String.to_atom(token.label)
    opts = [pool_size: 1, retry_policy: %{0x80000123 => :ambiguous}]
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, opts)})
    key = [token: true, private: true]
    mac = key ++ [label: "mac", value_len: 32, sign: true, verify: true]
    aes = key ++ [label: "aes", value_len: 32, encrypt: true, decrypt: true]
    {:ok, _} = Pkcs11Pool.generate_key(pool, :generic_secret_key_gen, mac)
    {:ok, _} = Pkcs11Pool.generate_key(pool, :aes_key_gen, aes)
    {:ok, mac} = Pkcs11Pool.sign(pool, "mac", :sha256_hmac, @data)
    {:ok, sealed} = Pkcs11Pool.encrypt(pool, "aes", @gcm, @data)

    calls = %{
      C_Verify: fn -> Pkcs11Pool.verify(pool, "mac", :sha256_hmac, @data, mac) end,
      C_Decrypt: fn -> Pkcs11Pool.decrypt(pool, "aes", @gcm, sealed) end
    }

    for {_function, call} <- calls, do: good(call.())

    on_exit(fn -> assert Chaos.violations(chaos) == [] end)
    %{pool: pool, chaos: chaos, calls: calls, mac: mac, sealed: sealed}
  end

  defp good(result), do: assert(result in [:ok, {:ok, @data}])

  defp number(code) when is_atom(code), do: ReturnCode.code(code)
  defp number(code), do: code

  for {function, reason} <- [C_Verify: :signature_invalid, C_Decrypt: :decryption_failed] do
    test "#{function}: each refusal is #{reason}, and makes the same calls", context do
      %{pool: pool, chaos: chaos, calls: %{unquote(function) => call}} = context

      seen =
        for code <- @refusals do
          Chaos.fail(chaos, unquote(function), code, count: 1, run: true)
          Chaos.reset_counts(chaos)
          assert {:error, %Error{reason: unquote(reason), executed: true} = error} = call.()
          assert {error.code, error.function} == {number(code), unquote(function)}
          refute Error.retryable?(error)
          Pools.drained!(pool)
          calls = Chaos.calls(chaos)
          good(call.())
          calls
        end

      assert [
               %{
                 "C_GetSessionInfo" => 1,
                 unquote("#{function}Init") => 1,
                 unquote("#{function}") => 1
               }
             ] == Enum.uniq(seen)

      assert Chaos.calls(chaos, :C_OpenSession) == 0
      Pools.drained!(pool)
    end

    test "#{function}: an operation that is left active is the next one's to find", context do
      %{pool: pool, chaos: chaos, calls: %{unquote(function) => call}} = context

      for code <- [:arguments_bad, :device_error] do
        # The real module is not called, so that its operation stays active.
        Chaos.fail(chaos, unquote(function), code, count: 1)
        assert {:error, %Error{reason: unquote(reason)}} = call.()
        good(call.())
      end

      Pools.drained!(pool)
    end

    test "#{function}: what speaks of memory, or comes with a session that is silent, is the token's",
         context do
      %{pool: pool, chaos: chaos, calls: %{unquote(function) => call}} = context

      for code <- [:device_memory, :host_memory, :fips_self_test_failed] do
        Chaos.fail(chaos, unquote(function), code, count: 1, run: true)
        good(call.())
        assert Chaos.calls(chaos, unquote(function)) >= 2
        Chaos.reset_counts(chaos)
      end

      Chaos.fail(chaos, unquote(function), :device_error, count: 1, run: true)
      Chaos.fail(chaos, :C_GetSessionInfo, :device_error, count: 2)
      good(call.())

      Chaos.fail(chaos, unquote(function), :general_error, count: 1, run: true)
      Chaos.fail(chaos, :C_GetSessionInfo, :device_error, count: 2)
      assert {:error, %Error{reason: :general_error, executed: :unknown}} = call.()
      Pools.drained!(pool)
    end
  end

  test "in a list a refusal is its item's, and the others go on", context do
    %{pool: pool, chaos: chaos, mac: mac, sealed: sealed} = context
    Chaos.fail(chaos, :C_Verify, :device_error, nth: 2, run: true)
    Chaos.fail(chaos, :C_Decrypt, :arguments_bad, nth: 2, run: true)
    Chaos.reset_counts(chaos)

    assert {:ok, [{:ok, true}, {:error, %Error{reason: :signature_invalid}}, {:ok, true}]} =
             Pkcs11Pool.verify_many(
               pool,
               "mac",
               :sha256_hmac,
               List.duplicate({@data, mac}, 3)
             )

    assert {:ok, [{:ok, @data}, {:error, %Error{reason: :decryption_failed}}, {:ok, @data}]} =
             Pkcs11Pool.decrypt_many(pool, "aes", @gcm, List.duplicate(sealed, 3))

    assert %{"C_Verify" => 3, "C_Decrypt" => 3} = Chaos.calls(chaos)
    assert Chaos.calls(chaos, :C_OpenSession) == 0
    Pools.drained!(pool)
  end
end
