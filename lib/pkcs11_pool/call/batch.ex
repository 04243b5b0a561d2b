defmodule Pkcs11Pool.Call.Batch do
  @moduledoc false
  # Many items with one key in one call. They are cut into slices, each an operation of the pool's queue with its own two deadlines. So many
  # are under way at once as the pool has sessions, and each that is answered makes room for the next: they run in parallel, and whoever calls
  # meanwhile waits for slices, not for the list.
  #
  # A slice is small in items, in bytes and in time. The native side limits the time: a slice that has had its time is answered as far as
  # it is, and the rest waits again. As many items as it managed are what the next slice gets.
  #
  # What happens to a slice as a whole, such as a timeout, is the answer of each of its items. If it never started, the items that wait would not
  # fare better, and get the same answer: a pool that is stuck keeps its caller no longer than for one operation.

  alias Pkcs11Pool.Argument.Key
  alias Pkcs11Pool.{Call, Error, Native, Options}
  alias Pkcs11Pool.Call.Batch.Items
  alias Pkcs11Pool.Call.{Deadlines, Errors, Span}
  alias Pkcs11Pool.Telemetry.Emitter

  @most_items 64
  @most_bytes 64 * 1024

  @operations %{
    sign: :sign_many,
    verify: :verify_many,
    encrypt: :encrypt_many,
    decrypt: :decrypt_many
  }

  # `window` slices may be under way. `waiting` and the slices hold `{index, item}`, `answered` holds `{index, result}`. `slices` are under way,
  # by the number in their tag. `first` is the ticket of the first slice.
  @enforce_keys [:target, :verb, :key]
  defstruct [:target, :verb, :key, :window, :first] ++
              [waiting: [], answered: [], limit: @most_items, slices: %{}, next: 0]

  @type result :: {:ok, term} | {:error, Error.t()}

  # The reference is handed from function to function by itself: so the VM skips what was in the mailbox before.

  @doc """
  Runs items with a key: the results in the items' order. An item that is `{:error, error}` is a result already. `{:error, error}`: there is no
  such pool.
  """
  @spec run(
          pool :: term,
          Items.verb(),
          Key.encoded(),
          mechanism :: term,
          [Items.t() | {:error, Error.t()}],
          Options.Call.t()
        ) :: {:ok, [result]} | {:error, Error.t()}
  def run(pool, verb, key, mechanism, items, opts) do
    operation = Map.fetch!(@operations, verb)
    span = Span.start(pool, operation, mechanism, opts)

    case Call.target(pool, opts) do
      {:ok, target} ->
        batch = %__MODULE__{target: target, verb: verb, key: key}
        {results, first} = run_items(batch, items)
        results = for result <- results, do: Errors.with_mechanism(result, mechanism)
        if span, do: stop(span, operation, results, first)
        {:ok, results}

      {:error, error} ->
        Emitter.stop(span, {:error, error})
        {:error, error}
    end
  end

  # Most lists are one slice, and all of it is answered: then no index is needed. Everything else runs in slices.
  defp run_items(batch, items) do
    with true <- items != [] and not Enum.any?(items, &match?({:error, _error}, &1)),
         {_all, []} <- cut(items, @most_items, @most_bytes, []) do
      {result, ticket} = Call.attempt(batch.target, request(batch, items))

      with {:ok, answers} <- result,
           results when is_list(results) <- results_of_all(items, answers, batch) do
        {results, ticket}
      else
        _not_all ->
          %{batch | first: ticket} |> handle_answer(indexed(items), result) |> run_in_slices()
      end
    else
      _several ->
        {answered, waiting} =
          items |> indexed() |> Enum.split_with(&match?({_index, {:error, _error}}, &1))

        run_in_slices(%{batch | waiting: waiting, answered: answered})
    end
  end

  defp run_in_slices(batch) do
    %{answered: answered, first: first} = submit_and_wait(batch, make_ref())
    {for({_index, result} <- List.keysort(answered, 0), do: result), first}
  end

  defp indexed(items), do: Enum.with_index(items, &{&2, &1})

  defp results_of_all([_item | items], [answer | answers], batch) do
    with results when is_list(results) <- results_of_all(items, answers, batch),
         do: [result(answer, batch.target) | results]
  end

  defp results_of_all([], [], _batch), do: []
  defp results_of_all(_items, [], _batch), do: :too_few

  defp submit_and_wait(%{waiting: [], slices: slices} = batch, _ref) when map_size(slices) == 0,
    do: batch

  defp submit_and_wait(%{slices: slices} = batch, ref) when map_size(slices) == 0 do
    {slice, rest} = cut(batch)
    batch = if rest == [], do: batch, else: ensure_window(batch)

    if rest == [] or batch.window == 1 do
      # One slice is like any call.
      {result, ticket} = Call.attempt(batch.target, request(batch, slice))
      batch = %{batch | waiting: rest, first: batch.first || ticket}
      batch |> handle_answer(slice, result) |> submit_and_wait(ref)
    else
      batch |> submit_slices(ref) |> await(ref)
    end
  end

  defp submit_and_wait(batch, ref), do: batch |> submit_slices(ref) |> await(ref)

  defp ensure_window(%{window: nil, target: {_name, entry, nil}} = batch),
    do: %{batch | window: Native.counts(entry.native).size}

  # A lease has one session.
  defp ensure_window(%{window: nil} = batch), do: %{batch | window: 1}
  defp ensure_window(batch), do: batch

  ## Slices

  defp submit_slices(%{waiting: []} = batch, _ref), do: batch

  defp submit_slices(%{slices: slices, window: window} = batch, _ref)
       when map_size(slices) >= window,
       do: batch

  defp submit_slices(%{target: {name, entry, _lease}} = batch, ref) do
    {slice, rest} = cut(batch)

    queue_timeout = with :infinity <- entry.queue_timeout, do: nil

    case Native.submit(entry.native, {ref, batch.next}, request(batch, slice), queue_timeout) do
      # Those that are under way make room.
      {:error, {:overloaded, _, _, _, _}} when map_size(batch.slices) > 0 ->
        batch

      {:error, error} ->
        handle_answer(%{batch | waiting: rest}, slice, {:error, Errors.new(error, name, entry)})

      ticket ->
        started = now()
        check_at = later(started, Deadlines.first_check(entry))
        under_way = %{ticket: ticket, started: started, check_at: check_at, items: slice}
        slices = Map.put(batch.slices, batch.next, under_way)
        first = batch.first || ticket

        submit_slices(
          %{batch | waiting: rest, slices: slices, next: batch.next + 1, first: first},
          ref
        )
    end
  end

  defp cut(%{waiting: waiting, limit: limit}), do: cut(waiting, limit, @most_bytes, [])

  defp cut([item | rest], limit, bytes, slice) when limit > 0 do
    left = bytes - size(item)

    if left >= 0 or slice == [],
      do: cut(rest, limit - 1, left, [item | slice]),
      else: {Enum.reverse(slice), [item | rest]}
  end

  defp cut(rest, _limit, _bytes, slice), do: {Enum.reverse(slice), rest}

  # With its index in the list, or without.
  defp size({index, item}) when is_integer(index), do: size(item)
  defp size({_mechanism, {data, signature}}), do: byte_size(data) + byte_size(signature)
  defp size({_mechanism, data}), do: byte_size(data)

  defp request(%{verb: verb, key: key}, slice), do: {:batch, verb, key, tasks(slice, nil)}

  # A mechanism that is the same as the one before is nil.
  defp tasks([{index, item} | slice], last) when is_integer(index),
    do: tasks([item | slice], last)

  defp tasks([{mechanism, input} | slice], mechanism),
    do: [{nil, input} | tasks(slice, mechanism)]

  defp tasks([{mechanism, _input} = task | slice], _last), do: [task | tasks(slice, mechanism)]
  defp tasks([], _last), do: []

  ## Waiting

  defp await(%{slices: slices} = batch, ref) when map_size(slices) == 0,
    do: submit_and_wait(batch, ref)

  defp await(%{target: {name, entry, _lease}} = batch, ref) do
    receive do
      {{^ref, number}, result} ->
        {%{items: slice}, slices} = Map.pop!(batch.slices, number)

        result = with {:error, error} <- result, do: {:error, Errors.new(error, name, entry)}

        %{batch | slices: slices} |> handle_answer(slice, result) |> submit_and_wait(ref)
    after
      until_next_check(batch.slices) -> batch |> check_deadlines() |> submit_and_wait(ref)
    end
  end

  defp until_next_check(slices) do
    case slices |> Map.values() |> Enum.map(& &1.check_at) |> Enum.min() do
      :infinity -> :infinity
      check_at -> max(check_at - now(), 0)
    end
  end

  defp check_deadlines(batch) do
    now = now()

    due =
      for {number, %{check_at: check_at} = slice} <- batch.slices,
          check_at <= now,
          do: {number, slice}

    Enum.reduce(due, batch, fn {number, slice}, batch ->
      check_deadlines(batch, number, slice, now)
    end)
  end

  defp check_deadlines(%{target: {name, entry, _lease}} = batch, number, slice, now) do
    case Deadlines.check(slice.ticket, slice.started, entry) do
      {:wait, ms} ->
        put_in(batch.slices[number].check_at, later(now, ms))

      # Its message comes.
      :answered ->
        put_in(batch.slices[number].check_at, :infinity)

      {:error, error} ->
        batch = %{batch | slices: Map.delete(batch.slices, number)}
        handle_answer(batch, slice.items, {:error, Errors.new(error, name, entry)})
    end
  end

  defp later(_now, :infinity), do: :infinity
  defp later(now, ms), do: now + ms

  defp now, do: System.monotonic_time(:millisecond)

  ## Answers

  defp handle_answer(batch, slice, {:ok, answers}) do
    {done, rest} = add_answers(batch, slice, answers, batch.answered)

    limit = if rest == [], do: min(2 * batch.limit, @most_items), else: max(length(answers), 1)

    %{batch | answered: done, waiting: rest ++ batch.waiting, limit: limit}
  end

  defp handle_answer(%{target: {_name, _entry, lease}} = batch, slice, {:error, error}) do
    batch = fail_items(batch, slice, error)

    # The one session of a lease is busy with the slice that was given up.
    if error.executed == false or lease != nil do
      fail_items(%{batch | waiting: []}, batch.waiting, not_executed(error))
    else
      batch
    end
  end

  defp not_executed(%Error{executed: false} = error), do: error

  defp not_executed(%Error{reason: reason, pool: pool, details: details}),
    do: Error.new(reason, pool: pool, executed: false, details: details)

  defp add_answers(batch, [{index, _item} | slice], [answer | answers], done),
    do: add_answers(batch, slice, answers, [{index, result(answer, batch.target)} | done])

  defp add_answers(_batch, rest, [], done), do: {done, rest}

  defp result(:ok, _place), do: {:ok, true}
  defp result({:ok, _value} = done, _place), do: done

  defp result({:error, error}, {name, entry, _lease}),
    do: {:error, Errors.new(error, name, entry)}

  defp fail_items(batch, items, error) do
    results = for {index, _item} <- items, do: {index, {:error, error}}
    %{batch | answered: results ++ batch.answered}
  end

  ## Telemetry

  defp stop(span, operation, results, first) do
    errors = for {:error, error} <- results, do: error
    {measurements, _session} = Span.timing(first)
    counts = %{count: length(results), failed: length(errors)}
    Emitter.stop(span, :ok, Map.merge(measurements, counts), %{})

    with %Error{} = error <- Enum.find(errors, &(&1.reason == :ambiguous_key)),
         do: Span.report_ambiguous_key(error, operation)
  end
end
