defmodule Pkcs11Pool.PublicKeyTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.PublicKey
  alias Pkcs11Pool.Test.SoftHSM

  # From what a token says of a key.
  defp decode(ec_params, ec_point),
    do: PublicKey.decode(%{ec_params: ec_params, ec_point: ec_point})

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

      assert decode(params, point) == {:ok, {{:ECPoint, point}, curve}}

      assert decode(params, <<4, length::binary, point::binary>>) ==
               {:ok, {{:ECPoint, point}, curve}}
    end

    # A BIT STRING, as some have it of such curves.
    point = <<3, 31, 0, 0::size(29)-unit(8)>>
    params = :public_key.der_encode(:EcpkParameters, ed25519)

    for encoded <- [point, <<3, 33, 0>> <> point],
        do: assert(decode(params, encoded) == {:ok, {{:ECPoint, point}, ed25519}})
  end

  describe "the size of a curve's order" do
    test "is that of its parameters, for each curve that openssl knows" do
      curves = Regex.scan(~r/^ +([\w-]+) *:/m, SoftHSM.openssl!(~w(ecparam -list_curves)))

      # Those of Oakley have no name but openssl's.
      for [_line, curve] <- curves, not String.starts_with?(curve, "Oakley") do
        assert {:ecParameters, parameters} =
                 :public_key.der_decode(:EcpkParameters, ec_params(curve, "explicit"))

        expected = {:ok, byte_size(:binary.encode_unsigned(elem(parameters, 5)))}

        for encoding <- ["explicit", "named_curve"] do
          read = %{key_type: :ec, ec_params: ec_params(curve, encoding)}
          assert {curve, PublicKey.order_size(read)} == {curve, expected}
        end
      end
    end

    test "is not guessed" do
      unknown = :public_key.der_encode(:EcpkParameters, {:namedCurve, {1, 2, 3, 4}})

      for params <- [unknown, <<5, 0>>, "", "rubbish", :unavailable] do
        read = %{key_type: :ec, ec_params: params}
        assert PublicKey.order_size(read) == {:error, :curve_not_supported}
        # The type of a vendor, or one that is not told, may well be that of an elliptic curve.
        read = %{key_type: 0x80000001, ec_params: params}
        assert PublicKey.order_size(read) == {:error, :curve_not_supported}
        read = %{key_type: :unavailable, ec_params: params}
        assert PublicKey.order_size(read) == {:error, :curve_not_supported}
      end
    end

    test "is not that of a key of another type" do
      assert PublicKey.order_size(%{key_type: :rsa, ec_params: :unavailable}) ==
               {:error, :key_type_inconsistent}

      ed25519 = :public_key.der_encode(:EcpkParameters, {:namedCurve, {1, 3, 101, 112}})

      assert PublicKey.order_size(%{key_type: :ec_edwards, ec_params: ed25519}) ==
               {:error, :key_type_inconsistent}
    end
  end

  defp ec_params(curve, encoding) do
    file = Path.join(SoftHSM.dir(), "#{curve}-#{encoding}.der")
    args = ~w(ecparam -name #{curve} -param_enc #{encoding} -outform DER -out #{file})
    SoftHSM.openssl!(args)
    File.read!(file)
  end
end
