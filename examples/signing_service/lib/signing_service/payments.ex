defmodule SigningService.Payments do
  @moduledoc """
  Takes payments, and answers each with its signature.

  The server never waits for the HSM: each signature is made in a task. So a slow HSM delays the payments that wait for it, and not this process. How many may wait is the
  pool's business (`:max_waiting`): beyond it, the pool refuses at once.
  """
  use GenServer

  alias Pkcs11Pool.Error

  @mechanism {:ecdsa, hash: :sha256}

  def start_link(opts), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc """
  Signs a payment. `{:ok, signature}`; `{:error, :try_later, seconds}` if it certainly was not signed; `{:error, :unknown, error}` if nobody knows, and somebody has to look.
  """
  def sign(payment, timeout \\ 60_000), do: GenServer.call(__MODULE__, {:sign, payment}, timeout)

  @doc "How many payments were signed, refused and left open."
  def counts, do: GenServer.call(__MODULE__, :counts)

  @impl true
  def init(opts), do: {:ok, %{key: opts[:key], signed: 0, refused: 0, open: 0, callers: %{}}}

  @impl true
  def handle_call({:sign, payment}, from, state) do
    key = state.key

    task =
      Task.Supervisor.async_nolink(SigningService.Tasks, fn ->
        Pkcs11Pool.sign(SigningService.HSM, key, @mechanism, payment, signature: :der)
      end)

    {:noreply, put_in(state.callers[task.ref], from)}
  end

  def handle_call(:counts, _from, state),
    do: {:reply, Map.take(state, [:signed, :refused, :open]), state}

  @impl true
  def handle_info({ref, result}, state) when is_map_key(state.callers, ref) do
    Process.demonitor(ref, [:flush])
    {from, state} = pop_in(state.callers[ref])
    {count, answer} = answer(result)
    GenServer.reply(from, answer)
    {:noreply, Map.update!(state, count, &(&1 + 1))}
  end

  # A task that crashed: what it had asked for may have been done.
  def handle_info({:DOWN, ref, :process, _pid, reason}, state)
      when is_map_key(state.callers, ref) do
    {from, state} = pop_in(state.callers[ref])
    GenServer.reply(from, {:error, :unknown, reason})
    {:noreply, Map.update!(state, :open, &(&1 + 1))}
  end

  defp answer({:ok, signature}), do: {:signed, {:ok, signature}}

  # It never reached the HSM, or was refused by it.
  defp answer({:error, %Error{executed: false} = error}),
    do: {:refused, {:error, :try_later, div(error.details[:retry_after_ms] || 1_000, 1_000) + 1}}

  defp answer({:error, %Error{} = error}), do: {:open, {:error, :unknown, error}}
end
