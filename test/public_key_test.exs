defmodule Pkcs11Pool.PublicKeyTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Options, PublicKey}

  # What a token says of a key.
  defp read(ec_params, ec_point) do
    attributes = %{ec_params: ec_params, ec_point: ec_point}
    PublicKey.read(:pool, "key", Options.call!([]), fn _, _, _, _, _ -> {:ok, attributes} end)
  end

  test "a point may come with its DER or bare, whatever its first bytes" do
    p256 = {:namedCurve, {1, 2, 840, 10_045, 3, 1, 7}}
    p521 = {:namedCurve, {1, 3, 132, 0, 35}}
    ed25519 = {:namedCurve, {1, 3, 101, 112}}

    for {curve, point} <- [
          {p256, <<4, 1, 0::size(63)-unit(8)>>},
          # Bare, it looks like the DER of 63 bytes.
          {p256, <<4, 63, 0::size(63)-unit(8)>>},
          {p521, <<4, 0x81, 130, 0::size(130)-unit(8)>>},
          {ed25519, <<7, 0::size(31)-unit(8)>>},
          {ed25519, <<4, 30, 0::size(30)-unit(8)>>}
        ] do
      params = :public_key.der_encode(:EcpkParameters, curve)
      size = byte_size(point)
      length = if size < 128, do: <<size>>, else: <<0x81, size>>

      assert read(params, point) == {:ok, {{:ECPoint, point}, curve}}

      assert read(params, <<4, length::binary, point::binary>>) ==
               {:ok, {{:ECPoint, point}, curve}}
    end
  end
end
