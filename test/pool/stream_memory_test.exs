defmodule Pkcs11Pool.StreamMemoryTest do
  # What a stream keeps in memory. Not beside others, whose memory is this VM's, too.
  use ExUnit.Case, async: false

  alias Pkcs11Pool.Test.{Pools, SoftHSM}

  @mib 1_048_576
  # More than what a stream has in hand, and less than what it would gather of the shorter one.
  @most 16 * @mib

  setup do
    opts = SoftHSM.new_token!() |> SoftHSM.pool_opts(name: :memory, pool_size: 2)
    start_supervised!({Pkcs11Pool, opts})
    :ok = Pkcs11Pool.await_ready(:memory, 30_000)
    key = [class: :secret_key, key_type: :aes, token: true, label: "aes", value: <<7::256>>]
    Pkcs11Pool.create_object!(:memory, key ++ [encrypt: true])
    Pools.key_pair!(:memory, "ec")
    :ok
  end

  # Resident memory of the VM, in bytes.
  defp resident do
    [_, kib] = Regex.run(~r/^VmRSS:\s+(\d+) kB$/m, File.read!("/proc/self/status"))
    String.to_integer(kib) * 1024
  end

  # The most that it grows by, as seen at each MiB, beyond what a first stream has needed.
  defp growth(mib, run) do
    run.(elements(8, fn -> :ok end))
    :erlang.garbage_collect()
    before = resident()
    most = :atomics.new(1, [])
    note = fn -> :atomics.put(most, 1, max(:atomics.get(most, 1), resident())) end
    run.(elements(mib, note))
    note.()
    :atomics.get(most, 1) - before
  end

  # So many MiB, as elements of many sizes: single bytes, and more than a part.
  defp elements(mib, note) do
    Stream.flat_map(1..mib, fn n ->
      note.()
      large = :binary.copy(<<n>>, 900_000)
      small = for byte <- 1..1_000, do: <<byte>>
      middle = for _ <- 1..10, do: [:binary.copy("x", 14_000), ["y"]]
      rest = @mib - 900_000 - 1_000 - 10 * 14_001
      small ++ [large | middle] ++ [:binary.copy("z", rest)]
    end)
  end

  defp digest(elements) do
    expected = elements |> Enum.reduce(:crypto.hash_init(:sha256), &:crypto.hash_update(&2, &1))

    assert Pkcs11Pool.digest_stream(:memory, :sha256, elements, lease_timeout: :infinity) ==
             {:ok, :crypto.hash_final(expected)}
  end

  # SoftHSM itself keeps what it decrypts until the end, so that a decryption shows nothing of ours.
  defp encrypt(elements) do
    mechanism = {:aes_ctr, counter_block: <<1::128>>}
    opts = [lease_timeout: :infinity]
    sealed = Pkcs11Pool.encrypt_stream(:memory, "aes", mechanism, elements, opts)
    assert sealed |> Enum.reduce(0, &(byte_size(&1) + &2)) |> rem(@mib) == 0
  end

  # Hashed here, since SoftHSM does not.
  defp sign(elements) do
    opts = [lease_timeout: :infinity]
    mechanism = {:ecdsa, hash: :sha256}
    assert {:ok, <<_::512>>} = Pkcs11Pool.sign_stream(:memory, "ec", mechanism, elements, opts)
  end

  @tag timeout: 300_000
  test "does not grow with what goes through it" do
    for run <- [&digest/1, &encrypt/1, &sign/1], do: assert(growth(64, run) < @most)
    Pools.drained!(:memory)
  end

  if System.get_env("PKCS11_POOL_LONG") == "1" do
    @tag timeout: 1_800_000
    test "does not grow with 2 GiB" do
      grown = growth(2_048, &digest/1)
      IO.puts("2 GiB through a digest: grown by #{div(grown, 1024)} KiB at most")
      assert grown < @most
      Pools.drained!(:memory)
    end
  end
end
