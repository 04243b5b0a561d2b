defmodule Pkcs11Pool.Telemetry.Emitter do
  @moduledoc false
  # Emits the events that `Pkcs11Pool.Telemetry` documents.

  @compile {:no_warn_undefined, [{:telemetry, :execute, 3}, :telemetry_handler_table]}
  @typedoc "A span: its name, when it started, and the metadata of its start."
  @type span :: {name :: atom, started :: integer, metadata :: map} | nil

  @doc """
  Whether events go anywhere. A handler can only have been attached once the library is loaded.
  """
  @spec enabled?() :: boolean
  def enabled?, do: :erlang.function_exported(library(), :execute, 3)

  @doc """
  Whether anybody hears of an operation that starts and stops. Two look-ups, so that an operation of which nobody hears costs no more: no clock is read, and nothing
  is put together. What is not known counts as yes.
  """
  @spec operation_watched?() :: boolean
  def operation_watched? do
    if :erlang.function_exported(handlers(), :list_for_event, 1) do
      handled?([:pkcs11_pool, :operation, :stop]) or handled?([:pkcs11_pool, :operation, :start])
    else
      enabled?()
    end
  end

  defp handled?(event), do: apply(handlers(), :list_for_event, [event]) != []

  # The library's own table, which is no public interface of it. Its public one, list_handlers/1, searches all events.
  defp handlers, do: :telemetry_handler_table

  @doc """
  Emits the event `[:pkcs11_pool | event]`; does nothing without the library. An event that carries
  no measurement gets `system_time`.
  """
  @spec execute([atom, ...], map, map) :: :ok
  def execute(event, measurements, metadata) do
    if enabled?(), do: emit(event, measurements, metadata), else: :ok
  end

  @doc """
  Starts a span, in the process that is to stop it. Nil without the library.
  """
  @spec start(atom, map) :: span
  def start(name, metadata) do
    if enabled?() do
      emit([name, :start], %{system_time: System.system_time()}, metadata)
      {name, System.monotonic_time(), metadata}
    end
  end

  @doc """
  Stops a span with the result of what it spans: of `{:error, %Pkcs11Pool.Error{}}` the reason goes
  into the metadata. `measurements` and `metadata` are added.
  """
  @spec stop(span, result :: term, map, map) :: :ok
  def stop(span, result, measurements \\ %{}, metadata \\ %{})
  def stop(nil, _result, _measurements, _metadata), do: :ok

  def stop({name, started, start_metadata}, result, measurements, metadata) do
    duration = System.monotonic_time() - started
    measurements = measurements |> Map.put(:duration, duration) |> with_queue_time(name)
    metadata = start_metadata |> Map.merge(metadata) |> Map.merge(outcome(result))
    emit([name, :stop], measurements, metadata)
  end

  # What has never started has done nothing but wait.
  defp with_queue_time(measurements, name) when name in [:operation, :lease],
    do: Map.put_new(measurements, :queue_time, measurements.duration)

  defp with_queue_time(measurements, _name), do: measurements

  @doc """
  A span of the native side, which is told of when it has ended: its `:start` is emitted now, with the
  time at which it was.
  """
  @spec ended(atom, nanoseconds :: non_neg_integer, :ok | {:error, atom}, map) :: :ok
  def ended(name, nanoseconds, result, metadata) do
    if enabled?() do
      duration = System.convert_time_unit(nanoseconds, :nanosecond, :native)
      emit([name, :start], %{system_time: System.system_time() - duration}, metadata)
      emit([name, :stop], %{duration: duration}, Map.merge(metadata, outcome(result)))
    else
      :ok
    end
  end

  @doc """
  Ends a span by what was raised, thrown or exited. The exception's text and the arguments in the
  stack trace are left out, since both may show data.
  """
  @spec exception(span, :error | :throw | :exit, term, Exception.stacktrace(), map) :: :ok
  def exception(span, kind, reason, stacktrace, measurements \\ %{})
  def exception(nil, _kind, _reason, _stacktrace, _measurements), do: :ok

  def exception({name, started, start_metadata}, kind, reason, stacktrace, measurements) do
    metadata =
      Map.merge(start_metadata, %{
        kind: kind,
        reason: bare(reason),
        stacktrace: Enum.map(stacktrace, &without_arguments/1)
      })

    measurements = Map.put(measurements, :duration, System.monotonic_time() - started)
    emit([name, :exception], measurements, metadata)
  end

  @doc """
  Runs a function within a span.
  """
  @spec span(atom, map, (() -> result)) :: result when result: term
  def span(name, metadata, fun) do
    span = start(name, metadata)

    try do
      fun.()
    catch
      kind, reason ->
        exception(span, kind, reason, __STACKTRACE__)
        :erlang.raise(kind, reason, __STACKTRACE__)
    else
      result ->
        stop(span, result)
        result
    end
  end

  defp emit(event, measurements, metadata) do
    measurements =
      if map_size(measurements) == 0,
        do: %{system_time: System.system_time()},
        else: measurements

    apply(library(), :execute, [[:pkcs11_pool | event], measurements, metadata])
  end

  # Behind a function: the compiler and dialyzer look for a module that is written out.
  defp library, do: :telemetry

  defp outcome(:halted), do: %{result: :halted}
  defp outcome({:error, %{reason: reason}}), do: %{result: :error, reason: reason}
  defp outcome({:error, reason}) when is_atom(reason), do: %{result: :error, reason: reason}
  defp outcome({:error, _reason}), do: %{result: :error, reason: :unknown}
  defp outcome(_ok), do: %{result: :ok}

  defp bare(%module{}), do: module
  defp bare(reason) when is_atom(reason), do: reason
  defp bare({reason, _details}) when is_atom(reason), do: reason
  defp bare(_reason), do: :unknown

  defp without_arguments({module, function, arguments, location}) when is_list(arguments),
    do: {module, function, length(arguments), Keyword.delete(location, :error_info)}

  defp without_arguments({function, arguments, location}) when is_list(arguments),
    do: {function, length(arguments), Keyword.delete(location, :error_info)}

  defp without_arguments({module, function, arity, location}),
    do: {module, function, arity, Keyword.delete(location, :error_info)}

  defp without_arguments(entry), do: entry
end
