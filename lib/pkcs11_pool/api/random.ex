defmodule Pkcs11Pool.API.Random do
  @moduledoc false
  # The token's random generator.

  import Pkcs11Pool.Argument.Data, only: [binary!: 2]

  alias Pkcs11Pool.{Call, Error, Options}

  @longest 0x100_0000

  @doc """
  Random bytes.
  """
  @spec generate(Pkcs11Pool.pool(), non_neg_integer, keyword) ::
          {:ok, binary} | {:error, Error.t()}
  def generate(pool, n, opts) when is_integer(n) and n in 0..@longest,
    do: Call.run(pool, :generate_random, nil, {:generate_random, n}, Options.Call.validate!(opts))

  def generate(_pool, n, _opts) do
    raise ArgumentError,
          "expected a number of bytes from 0 to #{@longest}, got: " <>
            if(is_number(n), do: inspect(n), else: "another term")
  end

  @doc """
  Mixes a seed into the generator.
  """
  @spec seed(Pkcs11Pool.pool(), iodata, keyword) :: :ok | {:error, Error.t()}
  def seed(pool, seed, opts) do
    opts = Options.Call.validate!(opts)
    seed = binary!(seed, "the seed")
    if seed == "", do: raise(ArgumentError, "expected the seed to be of one byte at least")
    Call.run(pool, :seed_random, nil, {:seed_random, seed}, opts)
  end
end
