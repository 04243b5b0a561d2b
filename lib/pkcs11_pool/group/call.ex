defmodule Pkcs11Pool.Group.Call do
  @moduledoc false
  # A call with a group's name in place of a pool's: it goes to a member, and to a second one where the first has certainly executed nothing and the time that the
  # call may wait is not over. A function for each kind of `Pkcs11Pool.Group.Routing`. `api` is `Pkcs11Pool`.

  alias Pkcs11Pool.{Error, Object}
  alias Pkcs11Pool.Group.{Choice, Member, Server, Status, Table}
  alias Pkcs11Pool.Telemetry.Emitter

  # Errors of the caller's own: another member would say the same, or is not meant.
  @callers_own [
    :not_owner,
    :lease_ended,
    :stream_in_progress,
    :object_stale,
    :object_of_other_token
  ]

  # How many operations a call may make one after the other, each with its own deadlines.
  @steps %{find_objects: 4, find_certificates: 4, get_attributes: 2, public_key: 4, key_info: 4}

  @doc "Any member will do."
  @spec any(api :: module, name :: atom, function :: atom, arguments :: [term]) :: term
  def any(api, name, function, arguments) do
    arguments = if Emitter.enabled?(), do: with_group(arguments, name), else: arguments

    started = :erlang.monotonic_time()

    case quick(name, arguments) do
      {:ok, pool} ->
        api
        |> apply(function, [pool | arguments])
        |> or_another(api, name, {pool, node()}, function, arguments, started)

      :none ->
        with {:ok, entry} <- fetch(name),
             {:ok, member, bound?} <- member_for(name, entry, arguments) do
          result = on_member(api, name, member, function, arguments)

          if bound?,
            do: result,
            else: or_another(result, api, name, place(member), function, arguments, started)
        end
    end
  end

  defp quick(name, arguments) do
    if Process.get({__MODULE__, name}) == nil and object(arguments) == nil,
      do: name |> Table.local() |> Choice.quick(),
      else: :none
  end

  # The result, or that of another member.
  defp or_another(
         {:error, %Error{executed: false, reason: reason} = error},
         api,
         name,
         place,
         function,
         arguments,
         started
       )
       when reason not in @callers_own do
    with {:ok, %{members: members} = entry} <- Table.fetch(name),
         %Member{} = member <- Enum.find(members, &(place(&1) == place)),
         %Member{} = other <- Choice.choose(entry, [member]),
         {:ok, arguments} <- with_time_left(arguments, member, ms_since(started)) do
      metadata = %{group: name, from: place, to: place(other), reason: reason}
      Emitter.execute([:group, :failover], %{count: 1}, metadata)
      on_member(api, name, other, function, arguments)
    else
      _none -> {:error, error}
    end
  end

  defp or_another(result, _api, _name, _place, _function, _arguments, _started), do: result

  @doc "A session of one member of this node, for what the calling process does with it."
  @spec session(api :: module, name :: atom, function :: atom, arguments :: [term]) :: term
  def session(api, name, :with_session, arguments) do
    on_local_member!(name, arguments, fn member ->
      before = Process.put({__MODULE__, name}, member)

      try do
        apply(api, :with_session, [member.pool | arguments])
      after
        if before,
          do: Process.put({__MODULE__, name}, before),
          else: Process.delete({__MODULE__, name})
      end
    end)
  end

  # A lazy stream has no other way to say so.
  def session(api, name, function, arguments)
      when function in [:encrypt_stream, :decrypt_stream] do
    with {:error, error} <-
           on_local_member!(name, arguments, &apply(api, function, [&1.pool | arguments])),
         do: raise(error)
  end

  def session(api, name, function, arguments),
    do: on_local_member!(name, arguments, &apply(api, function, [&1.pool | arguments]))

  @doc "Of the group as a whole."
  @spec group(api :: module, name :: atom, function :: atom, arguments :: [term]) :: term
  def group(_api, name, :status, []), do: Status.status(name)
  def group(_api, name, :await_ready, [timeout]), do: Status.await_ready(name, timeout, :any)

  @doc "What is a matter of one member."
  @spec member(api :: module, name :: atom, function :: atom, arguments :: [term]) :: no_return
  def member(_api, name, function, arguments) do
    pools =
      case Table.fetch(name) do
        {:ok, %{members: members}} ->
          for member <- members, Member.local?(member), do: member.pool

        :error ->
          []
      end

    raise ArgumentError,
          "#{function}/#{length(arguments) + 1} is a matter of one token, and #{inspect(name)} is a group: " <>
            "name the member that is meant, of this node #{inspect(pools)}, in place of the group"
  end

  defp fetch(name) do
    with :error <- Table.fetch(name),
         do: {:error, Error.new(:pool_not_found, pool: name, executed: false)}
  end

  # A block's member, an object's member, or one that is chosen: only that one may be replaced.
  defp member_for(name, entry, arguments) do
    case Process.get({__MODULE__, name}) do
      nil ->
        of_object =
          with %Object{token: token} <- object(arguments), do: Choice.of_identity(entry, token)

        member = of_object || Choice.choose(entry)
        if member, do: {:ok, member, of_object != nil}, else: {:error, no_member(name)}

      member ->
        {:ok, member, true}
    end
  end

  defp object([%Object{} = object | _]), do: object
  defp object([_other | arguments]), do: object(arguments)
  defp object([]), do: nil

  defp no_member(name), do: Error.new(:no_member, pool: name, executed: false)

  defp on_local_member!(name, arguments, fun) do
    with {:ok, entry} <- fetch(name),
         local = %{
           entry
           | members: Enum.filter(entry.members, &Member.local?/1),
             available: %{entry.available | remote: {}}
         },
         {:ok, member, _bound?} <- member_for(name, local, arguments),
         do: fun.(member)
  end

  ## One member, then another

  defp place(%Member{pool: pool, node: node}), do: {pool, node}

  # The second attempt has what the first has left of the time that the call may wait.
  defp with_time_left(arguments, member, passed) do
    case options(arguments) do
      {:ok, before, opts} ->
        case Keyword.get(opts, :queue_timeout, member.queue_timeout) do
          :infinity -> {:ok, arguments}
          ms when ms > passed -> {:ok, before ++ [Keyword.put(opts, :queue_timeout, ms - passed)]}
          _over -> :error
        end

      :error ->
        {:ok, arguments}
    end
  end

  # Of all but `mechanisms/1` the last argument.
  defp options([]), do: :error

  defp options(arguments) do
    {before, [opts]} = Enum.split(arguments, -1)
    if Keyword.keyword?(opts), do: {:ok, before, opts}, else: :error
  end

  defp with_group(arguments, name) do
    with {:ok, before, opts} <- options(arguments),
         metadata when is_map(metadata) <- Keyword.get(opts, :telemetry_metadata, %{}) do
      before ++ [Keyword.put(opts, :telemetry_metadata, Map.put_new(metadata, :group, name))]
    else
      _bad -> arguments
    end
  end

  ## On a member

  defp on_member(api, _name, %Member{node: node, pool: pool}, function, arguments)
       when node == node(),
       do: apply(api, function, [pool | arguments])

  defp on_member(
         api,
         name,
         %Member{node: node, pool: pool, calls: calls} = member,
         function,
         arguments
       ) do
    if node in Node.list() do
      :counters.add(calls, 1, 1)

      try do
        :erpc.call(
          node,
          api,
          function,
          [pool | arguments],
          timeout(member, function, arguments)
        )
      catch
        :error, {:erpc, :timeout} ->
          Server.suspect(name, member)
          {:error, unavailable(member, :timeout, :unknown)}

        :error, {:erpc, _reason} ->
          {:error, unavailable(member, :disconnected, :unknown)}

        :error, {:exception, exception, _stack} when is_exception(exception) ->
          raise exception

        _class, _reason ->
          {:error, unavailable(member, :crashed, :unknown)}
      after
        :counters.sub(calls, 1, 1)
      end
    else
      {:error, unavailable(member, :disconnected, false)}
    end
  end

  defp unavailable(member, cause, executed) do
    details = %{node: member.node, cause: cause}
    Error.new(:node_unavailable, pool: member.pool, executed: executed, details: details)
  end

  # As long as the call may take there.
  defp timeout(member, function, arguments) do
    opts = with {:ok, _before, opts} <- options(arguments), do: opts, else: (:error -> [])
    queue = Keyword.get(opts, :queue_timeout, member.queue_timeout)
    operation = Keyword.get(opts, :operation_timeout, member.operation_timeout)

    if is_integer(queue) and is_integer(operation),
      do: min((queue + operation) * steps(function, arguments, opts), 0xFFFFFFFF),
      else: :infinity
  end

  defp steps(function, [_key, _mechanism, list | _], _opts)
       when function in [:sign_many, :verify_many, :encrypt_many, :decrypt_many] and is_list(list),
       do: length(list) + 1

  defp steps(function, _arguments, opts),
    do: Map.get(@steps, function, 1) + if(opts[:select], do: 4, else: 0)

  defp ms_since(started),
    do: System.convert_time_unit(:erlang.monotonic_time() - started, :native, :millisecond)
end
