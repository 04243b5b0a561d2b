defmodule Pkcs11Pool.InterfacesTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.{Kryoptic, SoftHSM}
  alias Pkcs11Pool.Token

  defp module_of(token) do
    {:ok, %{module: module}} = Token.list(module: token.module, module_env: token.module_env)
    module
  end

  test "a module of PKCS#11 2.40 has no interfaces" do
    assert %{function_list: {2, 40}, interfaces: []} = module_of(SoftHSM.new_token!())
  end

  describe "kryoptic" do
    @describetag skip: Kryoptic.missing()

    test "has interfaces, and the functions of the newest one are called" do
      module = module_of(Kryoptic.new_token!())
      assert module.function_list == {3, 2}

      assert %{name: "PKCS 11", version: {2, 40}} =
               hd(Enum.sort_by(module.interfaces, & &1.version))

      assert %{name: "PKCS 11", version: {3, 2}, flags: flags} =
               Enum.max_by(module.interfaces, & &1.version)

      assert flags in [[], [:fork_safe]]
    end

    test "offers C_LoginUser, and says at each login that it does not: a refusal in words that name the option" do
      token = Kryoptic.new_token!()
      pool = String.to_atom(token.label)
      start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, username: "operator")})

      for _ <- 1..2 do
        assert {:error, error} = Pkcs11Pool.generate_random(pool, 8)
        assert %{reason: :function_not_supported, function: :C_LoginUser, executed: false} = error
        assert Exception.message(error) =~ "Leave :username out"
      end

      stop_supervised!({Pkcs11Pool, pool})
      start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, [])})
      assert {:ok, <<_::64>>} = Pkcs11Pool.generate_random(pool, 8)
    end

    test "signs as any other token" do
      token = Kryoptic.new_token!()
      pool = String.to_atom(token.label)
      start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, [])})

      public = [ec_params: :secp256r1, token: true]
      private = [token: true, sign: true, label: "key"]

      assert {:ok, {_public, key}} =
               Pkcs11Pool.generate_key_pair(pool, :ec_key_pair_gen, public, private)

      assert {:ok, signature} = Pkcs11Pool.sign(pool, key, :ecdsa_sha256, "data")
      assert byte_size(signature) == 64
    end
  end
end
