defmodule Pkcs11Pool.Pin.Source do
  @moduledoc false
  # Where a PIN comes from. The PIN itself is never part of a source's description or of an error.

  alias Pkcs11Pool.{Log, Native}

  @typedoc "A source as the user gives it."
  @type t :: Pkcs11Pool.pin_source()

  @typedoc "What a source's function returns. An atom that says why there is no PIN is quoted, any other term is withheld."
  @type result :: binary | {:ok, binary} | {:error, term}

  @type normalized ::
          {:mfa, {module, atom, [term]}}
          | {:fun, (() -> result)}
          | {:env, String.t()}
          | {:file, Path.t()}
          | {:file, Path.t(), [mode: :any]}

  @typedoc "What an error says of a source that gave no PIN."
  @type details :: %{required(:cause) => String.t(), optional(:source_reason) => atom}

  @typedoc """
  Why there is no PIN: the function raised, threw or exited (`:raised`), returned `{:error, atom}`
  (`{:refused, atom}`), `{:error, term}` (`:refused`) or what is no PIN (`:rubbish`); the PIN is empty; the variable is not set;
  the file cannot be read (a POSIX reason), is no regular file, is too large, or may be read (`:file_mode`) or written (`:file_writable`) by others.
  """
  @type reason ::
          :raised
          | :refused
          | {:refused, atom}
          | :rubbish
          | :empty
          | {:undefined_function, String.t()}
          | {:env_not_set, String.t()}
          | {:file, Path.t(), :file.posix() | :unknown | :not_regular | :too_large}
          | {:file_mode, Path.t()}
          | {:file_writable, Path.t()}

  # See native/token/src/support/pin_file.rs.
  @largest_file 4096

  @doc """
  What a source may be, for messages.
  """
  @spec expected() :: String.t()
  def expected do
    "a {module, function, arguments} tuple, a function without arguments, {:env, \"VARIABLE\"}, " <>
      "{:file, \"path\"} or {:file, \"path\", mode: :any}"
  end

  @doc """
  The source in the shape that `fetch/1` takes; `:error` for what is none.
  """
  @spec normalize(term) :: {:ok, normalized} | :error
  def normalize({module, function, arguments})
      when is_atom(module) and is_atom(function) and is_list(arguments) and
             module not in [nil, true, false] and length(arguments) >= 0,
      do: {:ok, {:mfa, {module, function, arguments}}}

  def normalize(fun) when is_function(fun, 0), do: {:ok, {:fun, fun}}

  def normalize({:env, variable}) when is_binary(variable) and variable != "" do
    if String.valid?(variable) and not String.contains?(variable, ["=", <<0>>]),
      do: {:ok, {:env, variable}},
      else: :error
  end

  def normalize({:file, path}) when is_binary(path) and path != "" do
    if String.contains?(path, <<0>>), do: :error, else: {:ok, {:file, path}}
  end

  def normalize({:file, path, [mode: :any] = options}) do
    with {:ok, {:file, path}} <- normalize({:file, path}), do: {:ok, {:file, path, options}}
  end

  def normalize(_other), do: :error

  @doc """
  Asks the source, in the calling process. What a function raises, throws or prints into its
  exception is not passed on.
  """
  @spec fetch(normalized, pool :: term) :: {:ok, binary} | {:error, reason}
  def fetch(source, pool \\ nil)

  def fetch({:mfa, {module, function, arguments}}, _pool) do
    if Code.ensure_loaded?(module) and function_exported?(module, function, length(arguments)),
      do: call(fn -> apply(module, function, arguments) end),
      else:
        {:error, {:undefined_function, Exception.format_mfa(module, function, length(arguments))}}
  end

  def fetch({:fun, fun}, _pool), do: call(fun)

  def fetch({:env, variable}, _pool) do
    case System.fetch_env(variable) do
      {:ok, value} -> pin(value)
      :error -> {:error, {:env_not_set, variable}}
    end
  end

  def fetch({:file, path}, pool), do: read(path, false, pool)
  def fetch({:file, path, mode: :any}, pool), do: read(path, true, pool)

  @doc """
  The source without what might be secret: of a function's arguments only their number.
  """
  @spec describe(normalized | nil) :: String.t()
  def describe(nil), do: "nil"
  def describe({:fun, _fun}), do: "a function"
  def describe({:env, variable}), do: "{:env, #{inspect(variable)}}"
  def describe({:file, path}), do: "{:file, #{inspect(path)}}"
  def describe({:file, path, mode: :any}), do: "{:file, #{inspect(path)}, mode: :any}"

  def describe({:mfa, {module, function, arguments}}),
    do: Exception.format_mfa(module, function, length(arguments))

  @doc """
  The details of an error for this reason: `:cause`, half a sentence, and `:source_reason`, the source's own atom where it gave one.
  """
  @spec details(reason | :timeout | :killed | :not_handed_over) :: details
  def details({:refused, atom} = reason), do: %{cause: explain(reason), source_reason: atom}
  def details(reason), do: %{cause: explain(reason)}

  @doc """
  A reason of `fetch/1`, `:timeout`, `:killed` or `:not_handed_over`, as half a sentence.
  """
  @spec explain(reason | :timeout | :killed | :not_handed_over | (explained :: String.t()) | term) ::
          String.t()
  def explain(:raised), do: "it raised, threw or exited (what it said is withheld)"
  def explain(:refused), do: "it returned {:error, reason} (the reason is withheld)"
  def explain({:refused, atom}), do: "it returned {:error, #{inspect(atom)}}"
  def explain(:rubbish), do: "it returned neither a binary, {:ok, binary} nor {:error, reason}"
  def explain(:empty), do: "it gave an empty PIN"
  def explain(:timeout), do: "it gave no answer within :pin_timeout"
  def explain(:killed), do: "the process that asked it was killed"
  def explain(:not_handed_over), do: "what it gave could not be handed to the login"
  def explain({:undefined_function, mfa}), do: "#{mfa} is undefined or private"
  def explain({:env_not_set, variable}), do: "the environment variable #{variable} is not set"
  def explain({:file, path, :not_regular}), do: "#{shown(path)} is no regular file"

  def explain({:file, path, :too_large}),
    do: "#{shown(path)} is larger than #{@largest_file} bytes"

  def explain({:file, path, posix}),
    do: "#{shown(path)} cannot be read: #{posix |> :file.format_error() |> to_string()}"

  def explain({:file_mode, path}),
    do:
      "#{shown(path)} may be read by group or others; take that right away (chmod 600), mount it read-only, or give " <>
        "{:file, path, mode: :any} if it is meant so"

  def explain({:file_writable, path}),
    do: "#{shown(path)} may be written by group or others; take that right away (chmod 600)"

  def explain(sentence) when is_binary(sentence), do: sentence
  def explain(_other), do: "it gave no PIN"

  # A path is bytes, a sentence is UTF-8.
  defp shown(path), do: if(String.valid?(path), do: path, else: inspect(path))

  defp call(fun) do
    case fun.() do
      {:ok, pin} when is_binary(pin) ->
        pin(pin)

      pin when is_binary(pin) ->
        pin(pin)

      # Not what stands for nothing.
      {:error, why} when is_atom(why) and why not in [nil, true, false] ->
        {:error, {:refused, why}}

      {:error, _withheld} ->
        {:error, :refused}

      _rubbish ->
        {:error, :rubbish}
    end
  catch
    _kind, _withheld -> {:error, :raised}
  end

  defp pin(""), do: {:error, :empty}
  defp pin(pin), do: {:ok, pin}

  # The native side opens the file once, and judges and reads what it has opened. The content passes through no process that lives on.
  defp read(path, any?, pool) do
    case Native.read_pin_file(path, any?) do
      {:ok, content, readers} ->
        warn_of_readers(readers, path, pool)
        content |> without_newline() |> pin()

      {:error, :readable} ->
        {:error, {:file_mode, path}}

      {:error, :writable} ->
        {:error, {:file_writable, path}}

      {:error, reason} ->
        {:error, {:file, path, if(is_atom(reason), do: reason, else: :unknown)}}
    end
  end

  @mounts %{read_only_mount: "a read-only mount", mount_of_root: "a mount of root's"}

  # Once for each file: it is asked again at every login.
  defp warn_of_readers(readers, path, pool) when is_map_key(@mounts, readers) do
    key = {__MODULE__, :warned_of, path}

    unless :persistent_term.get(key, false) do
      :persistent_term.put(key, true)

      Log.write(
        :warning,
        pool,
        "the PIN in #{shown(path)} may be read by group or others; it is taken, since it lies in #{@mounts[readers]}, as secrets of " <>
          "Kubernetes and Docker do. {:file, path, mode: :any} says that it is meant so"
      )
    end
  end

  defp warn_of_readers(_readers, _path, _pool), do: :ok

  defp without_newline(content) do
    cond do
      String.ends_with?(content, "\r\n") -> binary_part(content, 0, byte_size(content) - 2)
      String.ends_with?(content, "\n") -> binary_part(content, 0, byte_size(content) - 1)
      true -> content
    end
  end
end
