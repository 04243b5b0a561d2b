defmodule Pkcs11Pool.EcdsaSignatureTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.EcdsaSignature

  doctest EcdsaSignature

  # OTP's own ASN.1 is the reference.
  defp reference(r, s),
    do: :public_key.der_encode(:"ECDSA-Sig-Value", {:"ECDSA-Sig-Value", r, s})

  # Integers at the edges: 0, 1, around each byte's high bit, all ones, and random ones with any
  # number of leading zero bytes.
  defp integers(size) do
    edges = for byte <- 1..size, edge <- [0x7F, 0x80, 0xFF], do: Bitwise.bsl(edge, 8 * (byte - 1))

    random =
      for bytes <- 1..size,
          _ <- 1..3,
          do: :binary.decode_unsigned(:crypto.strong_rand_bytes(bytes))

    [0, 1, Bitwise.bsl(1, 8 * size) - 1] ++ edges ++ random
  end

  for size <- [20, 28, 32, 48, 64, 66] do
    test "both ways agree with OTP's ASN.1 for #{size} bytes" do
      size = unquote(size)
      integers = integers(size)

      for {r, s} <- Enum.zip(integers, Enum.shuffle(integers)) do
        raw = <<r::size(size)-unit(8), s::size(size)-unit(8)>>
        der = reference(r, s)
        assert EcdsaSignature.to_der(raw) == {:ok, der}
        assert EcdsaSignature.from_der(der, size) == {:ok, raw}
      end
    end
  end

  test "a signature made by OpenSSL survives the way there and back" do
    {public, private} = :crypto.generate_key(:ecdh, :secp256r1)

    for _ <- 1..20 do
      der = :crypto.sign(:ecdsa, :sha256, "data", [private, :secp256r1])
      assert {:ok, <<_::512>> = raw} = EcdsaSignature.from_der(der, 32)
      assert {:ok, again} = EcdsaSignature.to_der(raw)
      assert :crypto.verify(:ecdsa, :sha256, "data", again, [public, :secp256r1])
    end
  end

  test "what is no raw signature is refused" do
    for raw <- ["", <<1>>, <<1, 2, 3>>], do: assert(EcdsaSignature.to_der(raw) == :error)
  end

  test "what is no DER, or does not fit, is refused" do
    good = reference(1, 2)
    assert good == <<0x30, 6, 2, 1, 1, 2, 1, 2>>

    for bad <- [
          "",
          <<0x30>>,
          <<0x30, 0>>,
          good <> <<0>>,
          binary_part(good, 0, 7),
          # another tag
          <<0x31, 6, 2, 1, 1, 2, 1, 2>>,
          <<0x30, 6, 3, 1, 1, 2, 1, 2>>,
          # one integer, three integers
          <<0x30, 3, 2, 1, 1>>,
          <<0x30, 9, 2, 1, 1, 2, 1, 2, 2, 1, 3>>,
          # an empty, a negative, a padded integer
          <<0x30, 5, 2, 0, 2, 1, 2>>,
          <<0x30, 6, 2, 1, 0x80, 2, 1, 2>>,
          <<0x30, 7, 2, 2, 0, 1, 2, 1, 2>>,
          # lengths that are not the shortest, indefinite, or lie
          <<0x30, 0x81, 6, 2, 1, 1, 2, 1, 2>>,
          <<0x30, 0x80, 2, 1, 1, 2, 1, 2, 0, 0>>,
          <<0x30, 7, 2, 1, 1, 2, 1, 2>>,
          <<0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF, 2>>
        ] do
      assert EcdsaSignature.from_der(bad, 32) == :error
    end

    assert EcdsaSignature.from_der(reference(Bitwise.bsl(1, 256), 1), 32) == :error
    assert EcdsaSignature.from_der(reference(1, Bitwise.bsl(1, 256) - 1), 31) == :error
  end

  test "no bytes make it raise" do
    for size <- 0..80, _ <- 1..50 do
      bytes = :crypto.strong_rand_bytes(size)
      assert EcdsaSignature.from_der(bytes, 32) == :error
    end

    der = reference(Bitwise.bsl(1, 255), Bitwise.bsl(1, 254))

    for position <- 0..(byte_size(der) - 1), byte <- [0, 1, 0x7F, 0x80, 0xFF] do
      <<before::binary-size(position), _, rest::binary>> = der

      case EcdsaSignature.from_der(<<before::binary, byte, rest::binary>>, 32) do
        {:ok, raw} ->
          assert EcdsaSignature.to_der(raw) == {:ok, <<before::binary, byte, rest::binary>>}

        :error ->
          :ok
      end
    end
  end
end
