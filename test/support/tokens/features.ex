defmodule Pkcs11Pool.Test.Tokens.Features do
  @moduledoc """
  What is tried on each token, in this order, by pools that are started as a user would start them. With two targets each feature is tried on both at the same
  time.
  """

  alias Pkcs11Pool.{Error, Object}
  alias Pkcs11Pool.Test.Pools
  alias Pkcs11Pool.Test.Tokens.{KillStorm, Mechanisms, WrongPin}

  @typedoc """
  What came of it. `:pass` may have a note. `:fail` is what the token or we did wrong. `:not_offered`: the token lacks what it takes.
  """
  @type result :: :pass | {:pass, String.t()} | {:fail, String.t()} | {:not_offered, String.t()}

  @features [
    start: "starts, and `await_ready/2` is `:ok`",
    status: "`status/1` shows an idle pool",
    keys: "keys are made, found, described and destroyed",
    random: "`generate_random/3`",
    mechanisms: "mechanisms, used both ways",
    lease: "`with_session/3` makes and uses a session object",
    batch: "`sign_many/5` and `verify_many/5`",
    logout: "`logout/2`, and the next call logs in",
    reload: "`reload/2`, and the keys are found again",
    kill_storm: "callers are killed at random, and no session is lost",
    drain: "`drain/2` leaves no session open",
    restart: "a new pool finds the keys of the first one",
    files: "`C_Finalize` leaves the VM's own files open",
    wrong_pin: "a wrong PIN is tried once"
  ]

  @doc "The features, with what the table says of them."
  @spec all() :: [{atom, String.t()}]
  def all, do: @features

  @doc "What came of each mechanism of the pool's token, once they were tried."
  @spec mechanisms(term) :: [{atom | {:vendor, non_neg_integer}, Mechanisms.result()}]
  def mechanisms(pool), do: :persistent_term.get({__MODULE__, :mechanisms, pool}, [])

  @doc "Tries one feature on a target whose pool has this name."
  @spec try_feature(atom, map, term) :: result
  def try_feature(feature, target, pool) do
    attempt(feature, target, pool)
  rescue
    error in MatchError -> {:fail, match_error(error.term)}
  catch
    kind, reason ->
      {:fail, Exception.format(kind, reason, __STACKTRACE__) |> first_line()}
  end

  # What was expected to succeed.
  defp match_error({:error, %Error{} = error}), do: Mechanisms.describe(error)
  defp match_error(other), do: "unexpected: #{inspect(other)}" |> first_line()

  defp first_line(text), do: text |> String.split("\n") |> hd()

  @doc "The options of the target's pool."
  @spec pool_opts(map, term) :: keyword
  def pool_opts(%{opts: opts, pin: pin}, pool) do
    pin = if pin, do: [pin: fn -> pin end], else: []
    # A machine that is busy elsewhere is no failure.
    [name: pool, queue_timeout: 60_000, operation_timeout: 60_000] ++ pin ++ opts
  end

  @doc "Starts the target's pool, under a supervisor that `stop_pool/1` knows."
  @spec start_pool(map, term) :: :ok
  def start_pool(target, pool) do
    {:ok, _pid} =
      DynamicSupervisor.start_child(supervisor(), {Pkcs11Pool, pool_opts(target, pool)})

    :ok
  end

  @doc "Stops it."
  @spec stop_pool(term) :: :ok
  def stop_pool(pool),
    do: DynamicSupervisor.terminate_child(supervisor(), Pools.supervisor(pool))

  # Nobody's who tries a feature: a pool outlives that.
  defp supervisor do
    case DynamicSupervisor.start_link(strategy: :one_for_one, name: __MODULE__) do
      {:ok, pid} -> tap(pid, &Process.unlink/1)
      {:error, {:already_started, pid}} -> pid
    end
  end

  ## The features

  defp attempt(:start, target, pool) do
    :ok = start_pool(target, pool)
    :ok = Pkcs11Pool.await_ready(pool, 60_000)
    :pass
  end

  defp attempt(:status, %{opts: opts, pin: pin}, pool) do
    # A first call logs in.
    {:ok, _objects} = Pkcs11Pool.find_objects(pool, class: :private_key)
    Pools.drained!(pool)

    expected = %{
      state: :up,
      health: :ready,
      size: opts[:pool_size],
      ceiling: opts[:pool_size],
      running: 0,
      waiting: 0,
      opening: 0,
      leased: 0,
      hung: 0,
      panics: 0,
      login: if(pin, do: :logged_in, else: :none)
    }

    differences(Pkcs11Pool.status(pool), expected)
  end

  defp attempt(:keys, _target, pool) do
    results = for kind <- [:ec, :rsa, :aes], do: {kind, made_and_found(pool, kind)}
    wrong = for {kind, {:wrong, text}} <- results, do: "#{kind}: #{text}"
    made = for {kind, :ok} <- results, do: kind
    refused = for {kind, {:refused, text}} <- results, do: "no #{kind} (#{text})"

    cond do
      wrong != [] -> {:fail, Enum.join(wrong, "; ")}
      made == [] -> {:fail, Enum.join(refused, "; ")}
      refused == [] -> :pass
      true -> {:pass, Enum.join(refused, "; ")}
    end
  end

  defp attempt(:random, _target, pool) do
    {:ok, one} = Pkcs11Pool.generate_random(pool, 1_000)
    {:ok, other} = Pkcs11Pool.generate_random(pool, 1_000)
    {:ok, ""} = Pkcs11Pool.generate_random(pool, 0)

    cond do
      byte_size(one) != 1_000 or byte_size(other) != 1_000 ->
        {:fail, "not as many bytes as asked for"}

      one == other ->
        {:fail, "twice the same bytes"}

      # A run of zeros is what was not written.
      String.contains?(one <> other, <<0::64>>) ->
        {:fail, "eight zeros in a row"}

      true ->
        :pass
    end
  rescue
    error in MatchError -> refused(error.term)
  end

  defp attempt(:mechanisms, _target, pool) do
    results = Mechanisms.exercise(pool)
    :persistent_term.put({__MODULE__, :mechanisms, pool}, results)
    wrong = for {name, {:wrong, text}} <- results, do: "#{name}: #{text}"
    works = Enum.count(results, &match?({_name, :works}, &1))
    refused = Enum.count(results, &match?({_name, {:refused, _text}}, &1))
    untried = Enum.count(results, &match?({_name, :not_tried}, &1))

    if wrong == [],
      do:
        {:pass, "#{works} of #{length(results)} work, #{refused} refused, #{untried} not tried"},
      else: {:fail, Enum.join(wrong, "; ")}
  end

  defp attempt(:lease, _target, pool) do
    Pkcs11Pool.with_session(pool, fn ->
      case Mechanisms.session_pair(pool) do
        {:ok, {public, private}} -> signs_and_verifies(pool, private, :ecdsa, public)
        {:error, error} -> refused({:error, error})
      end
    end)
  end

  defp attempt(:batch, _target, pool) do
    with {:ok, {key, mechanism}} <- signing_key(pool) do
      data = for n <- 1..40, do: :crypto.hash(:sha256, <<n>>)
      {:ok, answers} = Pkcs11Pool.sign_many(pool, key, mechanism, data)
      signatures = for {:ok, signature} <- answers, do: signature
      {:ok, verdicts} = Pkcs11Pool.verify_many(pool, key, mechanism, Enum.zip(data, signatures))
      shifted = Enum.zip(data, tl(signatures) ++ [hd(signatures)])
      {:ok, refusals} = Pkcs11Pool.verify_many(pool, key, mechanism, shifted)

      cond do
        length(signatures) != 40 ->
          {:fail, "#{length(signatures)} of 40 signatures, #{first_error(answers)}"}

        Enum.any?(verdicts, &(&1 != {:ok, true})) ->
          {:fail, "a signature is not taken: #{first_error(verdicts)}"}

        Enum.any?(refusals, &match?({:ok, _}, &1)) ->
          {:fail, "a signature of other data is taken"}

        true ->
          :pass
      end
    end
  end

  defp attempt(:logout, %{pin: nil}, _pool), do: {:not_offered, "there is no PIN"}

  defp attempt(:logout, _target, pool) do
    with {:ok, {key, mechanism}} <- signing_key(pool) do
      :ok = Pkcs11Pool.logout(pool)
      logged_out = Pkcs11Pool.status(pool).login
      digest = :crypto.hash(:sha256, "logout")
      {:ok, signature} = Pkcs11Pool.sign(pool, key, mechanism, digest)
      :ok = Pkcs11Pool.verify(pool, key, mechanism, digest, signature)

      if logged_out == :logged_out,
        do: differences(Pkcs11Pool.status(pool), %{login: :logged_in}),
        else: {:fail, "login is #{inspect(logged_out)} after a logout"}
    end
  end

  defp attempt(:reload, _target, pool) do
    with {:ok, {key, mechanism}} <- signing_key(pool) do
      :ok = Pkcs11Pool.reload(pool)
      :ok = Pkcs11Pool.await_ready(pool, 60_000)
      signs_and_verifies(pool, key, mechanism)
    end
  end

  defp attempt(:kill_storm, _target, pool) do
    with {:ok, {key, mechanism}} <- signing_key(pool),
         do: KillStorm.rage(pool, key, mechanism)
  end

  defp attempt(:drain, _target, pool) do
    case Pkcs11Pool.drain(pool, 30_000) do
      {:ok, 0} ->
        with :pass <-
               differences(Pkcs11Pool.status(pool), %{
                 state: :draining,
                 idle: 0,
                 running: 0,
                 hung: 0
               }) do
          stop_pool(pool)
          :pass
        end

      {:ok, left} ->
        {:fail, "#{left} are left"}

      {:error, error} ->
        {:fail, Mechanisms.describe(error)}
    end
  end

  defp attempt(:restart, target, pool) do
    :ok = start_pool(target, pool)

    with {:ok, {key, mechanism}} <- signing_key(pool),
         :pass <- signs_and_verifies(pool, key, mechanism) do
      {:ok, objects} = Pkcs11Pool.find_objects(pool, label: "kept")
      for object <- objects, do: :ok = Pkcs11Pool.destroy_object(pool, object)
      {:ok, left} = Pkcs11Pool.find_objects(pool, label: "kept")
      stop_pool(pool)
      if left == [], do: :pass, else: {:fail, "destroyed objects are still found"}
    end
  end

  # Some modules close a file that they have closed already: by then its number may be another file's. Nobody uses the module here, so that each list initializes and
  # finalizes it.
  defp attempt(:files, %{opts: opts}, _pool) do
    opts = Keyword.take(opts, [:module, :module_env, :module_args])
    {:ok, _list} = Pkcs11Pool.Token.list(opts)
    files = for _ <- 1..50, {:ok, file} <- [:file.open("/dev/null", [:read, :raw])], do: file
    {:ok, _list} = Pkcs11Pool.Token.list(opts)
    # One whose number is another's by now is left alone.
    closed = Enum.filter(files, &(:file.read(&1, 1) != :eof))
    Enum.each(files -- closed, &:file.close/1)
    if closed == [], do: :pass, else: {:fail, "it closes a file that is not the module's"}
  end

  defp attempt(:wrong_pin, %{pin: nil}, _pool), do: {:not_offered, "there is no PIN"}
  defp attempt(:wrong_pin, target, _pool), do: WrongPin.try_once(target)

  ## Helpers

  defp differences(status, expected) do
    case for {key, value} <- expected,
             status[key] != value,
             do: "#{key} is #{inspect(status[key])}" do
      [] -> :pass
      differing -> {:fail, Enum.join(differing, ", ")}
    end
  end

  defp first_error(answers),
    do:
      Enum.find_value(answers, "", fn
        {:error, error} -> Mechanisms.describe(error)
        {:ok, _} -> nil
      end)

  # The key that stays until the end, made when it is first wanted.
  defp signing_key(pool) do
    with {:ok, []} <- Pkcs11Pool.find_objects(pool, label: "kept", class: :private_key) do
      case Mechanisms.make_signing_key(pool, "kept") do
        :ok -> signing_key(pool)
        {:error, error} -> refused({:error, error})
      end
    else
      {:ok, [%Object{key_type: :ec}]} -> {:ok, {"kept", :ecdsa}}
      {:ok, [%Object{key_type: :rsa}]} -> {:ok, {"kept", :rsa_pkcs}}
      {:ok, several} -> {:fail, "#{length(several)} keys where one was made"}
      {:error, error} -> {:fail, Mechanisms.describe(error)}
    end
  end

  defp signs_and_verifies(pool, key, mechanism, public \\ nil) do
    public = public || key
    digest = :crypto.hash(:sha256, "data")
    {:ok, signature} = Pkcs11Pool.sign(pool, key, mechanism, digest)
    :ok = Pkcs11Pool.verify(pool, public, mechanism, digest, signature)

    case Pkcs11Pool.verify(
           pool,
           public,
           mechanism,
           :crypto.hash(:sha256, "other data"),
           signature
         ) do
      {:error, %Error{reason: :signature_invalid}} -> :pass
      other -> {:fail, "a signature of other data is #{inspect(other)}"}
    end
  end

  defp made_and_found(pool, kind) do
    label = "found-#{kind}"

    case Mechanisms.make_key(pool, kind, label) do
      {:error, error} ->
        {:refused, Mechanisms.describe(error)}

      {:ok, objects} ->
        {:ok, found} = Pkcs11Pool.find_objects(pool, label: label)
        handles = fn list -> list |> Enum.map(& &1.handle) |> Enum.sort() end
        {:ok, info} = Pkcs11Pool.key_info(pool, List.last(objects))
        for object <- found, do: :ok = Pkcs11Pool.destroy_object(pool, object)
        {:ok, left} = Pkcs11Pool.find_objects(pool, label: label)

        cond do
          handles.(found) != handles.(objects) -> {:wrong, "not found as made"}
          info.type != kind -> {:wrong, "its type is #{inspect(info.type)}"}
          left != [] -> {:wrong, "still there after it was destroyed"}
          true -> :ok
        end
    end
  end

  defp refused({:error, %Error{reason: reason} = error})
       when reason in [:mechanism_invalid, :function_not_supported, :key_not_found],
       do: {:not_offered, Mechanisms.describe(error)}

  defp refused({:error, error}), do: {:fail, Mechanisms.describe(error)}
end
