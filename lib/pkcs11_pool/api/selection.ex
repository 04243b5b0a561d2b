defmodule Pkcs11Pool.API.Selection do
  @moduledoc false
  # The option `:select`: which of several keys that share a label or an id is meant. A function chooses here, in the caller's process, and from then on the
  # key is the object that it chose. The newest is found by the native side, which remembers it.

  alias Pkcs11Pool.Argument.Key
  alias Pkcs11Pool.{Call, Error, Object, Options}

  # See native/token/src/execution/newest.rs.
  @most_candidates 1_000

  @doc """
  The key that the option's function chooses among the candidates; the key as it is where there is nothing to choose, or no function.
  """
  @spec choose(Pkcs11Pool.pool(), Pkcs11Pool.key(), class :: atom | nil, Options.Call.t()) ::
          {:ok, Pkcs11Pool.key()} | {:error, Error.t()}
  def choose(pool, key, class, %{select: fun} = opts) when is_function(fun, 1) do
    case Key.encode!(key, class) do
      {:find, template} ->
        choose_one(pool, template, opts)

      {:find, template, _token} = found ->
        with :ok <- check_token(pool, found, opts), do: choose_one(pool, template, opts)

      _one_key ->
        {:ok, key}
    end
  end

  def choose(_pool, key, _class, _opts), do: {:ok, key}

  @doc """
  The key as the native side takes it, after `choose/4`.
  """
  @spec encode!(Pkcs11Pool.key(), class :: atom | nil, Options.Call.t()) :: Key.encoded()
  def encode!(key, class, %{select: :newest}) do
    case Key.encode!(key, class) do
      {:find, template} -> {:newest, template}
      {:find, template, token} -> {:newest, template, token}
      one_key -> one_key
    end
  end

  def encode!(key, class, _opts), do: Key.encode!(key, class)

  defp choose_one(pool, template, opts) do
    request = {:find_objects, template, @most_candidates, false}

    with {:ok, found} <- Call.run(pool, :find_objects, nil, request, opts) do
      case Enum.map(found, &Object.from_native/1) do
        [] -> {:error, not_found(pool)}
        candidates -> chosen(pool, opts.select.(candidates), candidates)
      end
    end
  end

  defp chosen(pool, nil, _candidates), do: {:error, not_found(pool)}

  defp chosen(_pool, object, candidates) do
    if object in candidates do
      {:ok, object}
    else
      raise ArgumentError,
            "invalid value for :select option: the function must return one of the objects that it is given, or nil"
    end
  end

  defp not_found(pool), do: Error.new(:key_not_found, pool: pool, executed: false)

  # A search asks for no token: what a URI says of it is asked by itself.
  defp check_token(pool, found, opts) do
    case Call.run(pool, :get_attributes, nil, {:get_attributes, found, []}, opts) do
      {:error, %Error{reason: reason}} when reason in [:ambiguous_key, :key_not_found] -> :ok
      {:error, error} -> {:error, error}
      {:ok, _no_attributes} -> :ok
    end
  end
end
