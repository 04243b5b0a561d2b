defmodule Pkcs11Pool.API.Login do
  @moduledoc false
  # Logins and logouts that a caller asks for.

  alias Pkcs11Pool.{Call, Error, Lease, Native, Options, Pin, Registry}

  @doc """
  Logs in with the PIN of this source.
  """
  @spec login(Pkcs11Pool.pool(), Pin.Source.t() | nil, keyword) :: :ok | {:error, Error.t()}
  def login(pool, pin_source, opts) do
    pool = Lease.pool_name(pool)
    opts = Options.Call.validate!(opts, [:force])
    sources = Options.pin_sources!(pin_source)

    with {:ok, entry} <- fetch_with_login(pool) do
      unless sources != [] or entry.protected_authentication_path,
        do: raise(ArgumentError, "expected a PIN source: " <> Pin.Source.expected())

      opts = without_wait_for_own_session(opts, pool, entry)

      log_in = fn pins ->
        Call.submit(pool, opts, &Native.login(&1, &2, List.first(pins), opts.force, &3))
      end

      # The span is around the process that has the PIN: nobody's telemetry handlers run in that process.
      Call.Span.within(pool, :login, opts, fn ->
        Pin.Process.run(pool, sources, entry.pin_timeout, log_in)
      end)
    end
  end

  defp fetch_with_login(pool) do
    case Registry.fetch(pool) do
      {:ok, _server, %{type: :cloud_hsm}} -> {:error, Error.new(:login_unsupported, pool: pool)}
      {:ok, _server, entry} -> {:ok, entry}
      {:error, error} -> {:error, error}
    end
  end

  @doc """
  Logs out.
  """
  @spec logout(Pkcs11Pool.pool(), keyword) :: :ok | {:error, Error.t()}
  def logout(pool, opts) do
    pool = Lease.pool_name(pool)
    opts = Options.Call.validate!(opts, [:force])

    with {:ok, _server, %{type: type} = entry} when type != :cloud_hsm <- Registry.fetch(pool),
         :ok <- refuse_within_own_block(pool, entry, opts) do
      opts = without_wait_for_own_session(opts, pool, entry)

      Call.Span.within(pool, :logout, opts, fn ->
        Call.submit(pool, opts, &Native.logout(&1, &2, opts.force, &3))
      end)
    else
      # Nobody has logged in.
      {:ok, _server, %{type: :cloud_hsm}} -> :ok
      {:error, error} -> {:error, error}
    end
  end

  defp refuse_within_own_block(_pool, _entry, %{force: true}), do: :ok

  defp refuse_within_own_block(pool, %{native: native}, _opts) do
    if Lease.own(pool) == nil do
      :ok
    else
      details = %{leases: Native.status(native).leased}
      {:error, Error.new(:login_shared, pool: pool, details: details)}
    end
  end

  # The caller's own sessions (of a block, of streams) do not come free while the caller waits here: if the pool has no other, there is nothing to wait for.
  defp without_wait_for_own_session(opts, pool, %{native: native}) do
    held = Lease.held(pool)

    if held > 0 and Native.status(native).ceiling <= held,
      do: %{opts | queue_timeout: 0},
      else: opts
  end
end
