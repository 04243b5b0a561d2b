defmodule Bench.Bare do
  @moduledoc "The NIFs of bench/bare: runners behind a queue, with none of the pool's rules."

  @type bare :: reference
  @type session :: non_neg_integer

  @doc "Loads the library, once."
  @spec load!(Path.t()) :: :ok
  def load!(library) do
    case :erlang.load_nif(library |> Path.rootname() |> to_charlist(), 0) do
      :ok -> :ok
      {:error, {:reload, _text}} -> :ok
      {:error, {_reason, text}} -> raise "#{library} cannot be loaded: #{text}"
    end
  end

  @doc "Opens sessions on a token that is logged in, and finds a key by class and label. Without a task operations do nothing."
  @spec start(
          module :: Path.t(),
          slot :: non_neg_integer,
          task ::
            {class :: non_neg_integer, label :: String.t(), mechanism :: non_neg_integer} | nil,
          sessions :: pos_integer
        ) :: {:ok, bare, [session]} | {:error, String.t()}
  def start(_module, _slot, _task, _sessions), do: :erlang.nif_error(:nif_not_loaded)

  @doc "The calling process is a runner until this returns; `true`: it must call it again. Dirty IO."
  @spec serve(bare, session) :: boolean
  def serve(_bare, _session), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Starts a runner on a native thread."
  @spec start_thread(bare, session) :: :ok
  def start_thread(_bare, _session), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Takes an operation; its answer comes as `{tag, {:ok, signature} | {:error, text}}`."
  @spec submit(bare, tag :: reference, data :: binary) :: :ok
  def submit(_bare, _tag, _data), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Ends so many runners, and waits until they have ended. Dirty IO."
  @spec rest(bare, runners :: pos_integer) :: :ok
  def rest(_bare, _runners), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Closes sessions that no runner has. Dirty IO."
  @spec close(bare, [session]) :: :ok
  def close(_bare, _sessions), do: :erlang.nif_error(:nif_not_loaded)
end
