defmodule Pkcs11Pool.Telemetry.DefaultLogger do
  @moduledoc false
  # The handler of `Pkcs11Pool.Telemetry.attach_default_logger/1`. It runs in the process that emits the event: for an operation, in the caller's.

  alias Pkcs11Pool.Error.Details
  alias Pkcs11Pool.Log
  alias Pkcs11Pool.Options.Shape

  @id "pkcs11_pool-default-logger"

  @events [
    [:pkcs11_pool, :operation, :stop],
    [:pkcs11_pool, :operation, :exception],
    [:pkcs11_pool, :operation, :retry],
    [:pkcs11_pool, :lease, :stop],
    [:pkcs11_pool, :login, :stop],
    [:pkcs11_pool, :open_session, :stop]
  ]

  @defaults [level: :warning, interval: 30_000, slower_than: :infinity, success_level: nil]
  @levels [:debug, :info, :notice, :warning, :error, :critical, :alert, :emergency]

  # What is the same is logged once in an interval. It has its place by a hash, of which two may have the same: then one of them may go unlogged.
  @places 1_024

  @doc """
  Attaches the handler, with checked options.
  """
  @spec attach(Logger.level() | keyword) :: :ok | {:error, :already_exists}
  def attach(level) when is_atom(level), do: attach(level: level)

  def attach(opts) do
    config = opts |> validate!() |> Map.put(:seen, :atomics.new(2 * @places, []))
    call_library!(:attach_many, [@id, @events, &__MODULE__.handle_event/4, config])
  end

  @doc """
  Takes it away.
  """
  @spec detach() :: :ok | {:error, :not_found}
  def detach, do: call_library!(:detach, [@id])

  @doc false
  @spec handle_event([atom], map, map, map) :: :ok
  def handle_event([:pkcs11_pool, :operation, :retry], _measurements, metadata, config) do
    with {:ok, more} <- due(config, {metadata.pool, :retry, metadata.reason}) do
      text = "#{metadata.function} returned #{metadata.reason}, and the operation is tried again"
      write(config.level, metadata, [text, more])
    end
  end

  def handle_event([:pkcs11_pool, span, :exception], measurements, metadata, config) do
    with {:ok, more} <- due(config, {metadata.pool, what(span, metadata), metadata.reason}) do
      text = "#{what(span, metadata)} ended by an exception (#{inspect(metadata.reason)})"
      write(config.level, metadata, [text, times(measurements), more])
    end
  end

  def handle_event(
        [:pkcs11_pool, span, :stop],
        measurements,
        %{result: :error} = metadata,
        config
      ) do
    with {:ok, more} <- due(config, {metadata.pool, what(span, metadata), metadata.reason}) do
      text = "#{what(span, metadata)} failed: #{metadata.reason}"
      write(config.level, metadata, [text, times(measurements), more])
    end
  end

  def handle_event([:pkcs11_pool, span, :stop], measurements, metadata, config) do
    cond do
      # An atom is greater than any number.
      ms(measurements.duration) > config.slower_than ->
        text = "#{what(span, metadata)} took long"
        write(config.level, metadata, [text, times(measurements)])

      config.success_level ->
        write(config.success_level, metadata, [what(span, metadata), times(measurements)])

      true ->
        :ok
    end
  end

  defp write(level, metadata, text), do: Log.write(level, metadata.pool, text)

  defp what(:operation, %{operation: operation, mechanism: mechanism}),
    do: "#{operation} (#{mechanism(mechanism)})"

  defp what(:operation, %{operation: operation}), do: "#{operation}"
  defp what(:lease, _metadata), do: "with_session"
  defp what(:open_session, _metadata), do: "the opening of a session"
  defp what(:login, _metadata), do: "the login"

  # An atom, or a vendor's number.
  defp mechanism(name) when is_atom(name), do: Atom.to_string(name)
  defp mechanism(other), do: inspect(other)

  defp times(%{duration: duration, queue_time: queue_time}),
    do: ", after #{shown(duration)}, of which it waited #{shown(queue_time)}"

  defp times(%{duration: duration}), do: ", after #{shown(duration)}"

  defp shown(native) do
    case ms(native) do
      ms when ms < 10 -> "#{System.convert_time_unit(native, :native, :microsecond)} µs"
      ms -> Details.duration(ms)
    end
  end

  defp ms(native), do: System.convert_time_unit(native, :native, :millisecond)

  # Whether it is time for a line of this, and what it says of those that came since the last one. One of several that come at the same time writes.
  defp due(%{interval: 0}, _what), do: {:ok, ""}

  defp due(%{seen: seen, interval: interval}, what) do
    place = 2 * :erlang.phash2(what, @places) + 1
    now = uptime()
    last = :atomics.get(seen, place)

    if (last == 0 or now - last >= interval) and
         :atomics.compare_exchange(seen, place, last, now) == :ok do
      {:ok, more(:atomics.exchange(seen, place + 1, 0))}
    else
      :atomics.add(seen, place + 1, 1)
    end
  end

  # From 1 on: 0 is never.
  defp uptime do
    {ms, _since_last} = :erlang.statistics(:wall_clock)
    ms + 1
  end

  defp more(0), do: ""
  defp more(count), do: " (and #{count} more since the last such line)"

  ## The library

  @library :telemetry

  defp call_library!(function, arguments) do
    unless Code.ensure_loaded?(@library) do
      raise ArgumentError,
            "the default logger needs the library telemetry: add {:telemetry, \"~> 1.0\"} to the dependencies of your application"
    end

    apply(@library, function, arguments)
  end

  ## Options

  defp validate!(opts) do
    Shape.keyword!(opts)
    Shape.known!(opts, Keyword.keys(@defaults))
    opts = @defaults |> Keyword.merge(opts) |> Map.new()
    opts.level in @levels || invalid!(:level, "one of #{inspect(@levels)}", opts)

    opts.success_level in [nil | @levels] ||
      invalid!(:success_level, "nil or one of #{inspect(@levels)}", opts)

    (is_integer(opts.interval) and opts.interval >= 0) ||
      invalid!(:interval, "a time in ms that is not negative", opts)

    opts.slower_than == :infinity or (is_integer(opts.slower_than) and opts.slower_than >= 0) ||
      invalid!(:slower_than, "a time in ms that is not negative, or :infinity", opts)

    opts
  end

  defp invalid!(name, expected, opts) do
    raise ArgumentError,
          "invalid value for #{inspect(name)} option: expected #{expected}, got: #{inspect(Map.fetch!(opts, name))}"
  end
end
