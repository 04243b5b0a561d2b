defmodule Pkcs11Pool.MatrixTest do
  # Every function with every mechanism, against other implementations: see Pkcs11Pool.Test.Matrix.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.{Kryoptic, Matrix, MatrixTrial, Pools, SoftHSM, Tokens}

  @moduletag timeout: 300_000

  @kinds [
    digest: "digests",
    mac: "MACs",
    signature: "signatures",
    cipher: "ciphers",
    rsa_cipher: "RSA ciphers",
    agreement: "key agreements",
    wrap: "wrapped keys"
  ]

  missing = fn
    :softhsm -> false
    :kryoptic -> Kryoptic.missing()
    :nss -> Tokens.NSS.missing()
  end

  for {token, title} <- Matrix.tokens() do
    describe title do
      @describetag skip: missing.(token)

      setup do
        %{pool: start!(unquote(token))}
      end

      for {kind, words} <- @kinds, Enum.any?(Matrix.rows(token), &(elem(&1, 0) == kind)) do
        test "#{words} are those of other implementations", %{pool: pool} do
          keys = :ets.new(:keys, [])

          for row <- Matrix.rows(unquote(token)),
              elem(row, 0) == unquote(kind),
              do: MatrixTrial.try_row(unquote(token), pool, keys, row)

          Pools.drained!(pool)
        end
      end
    end
  end

  defp start!(:softhsm), do: start_pool!(SoftHSM.pool_opts(SoftHSM.new_token!(), []))
  defp start!(:kryoptic), do: start_pool!(SoftHSM.pool_opts(Kryoptic.new_token!(), []))
  defp start!(:nss), do: start_pool!(Tokens.NSS.pool_opts())

  defp start_pool!(opts) do
    start_supervised!({Pkcs11Pool, opts})
    opts[:name]
  end
end
