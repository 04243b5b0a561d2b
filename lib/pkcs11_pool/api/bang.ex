defmodule Pkcs11Pool.API.Bang do
  @moduledoc false
  # Defines the twin of a function that raises its error instead of returning it.

  @doc """
  Defines a function whose name ends in `!`, with its documentation and its spec, from the function of the same name without the `!`.

      defbang sign!(pool, data :: iodata, opts :: [option]) :: binary

  defines `sign!/3`, which calls `sign/3`. It is written like a spec: each argument as `name :: type`, or as its name alone where its type has the
  same name. An argument `opts` is `[]` by default. The result is what `{:ok, result}` holds, or `:ok`.
  """
  defmacro defbang({:"::", _, [{bang, _, arguments}, result]}) do
    name = bang |> Atom.to_string() |> String.trim_trailing("!") |> String.to_atom()
    names = Enum.map(arguments, &name/1)
    doc = "`#{name}/#{length(names)}`, but raises `Pkcs11Pool.Error`."

    quote do
      @doc unquote(doc)
      @spec unquote(bang)(unquote_splicing(Enum.map(arguments, &type/1))) :: unquote(result)
      def unquote(bang)(unquote_splicing(Enum.map(names, &parameter/1))),
        do: unquote(__MODULE__).unwrap!(unquote(name)(unquote_splicing(names)))
    end
  end

  defp name({:"::", _, [name, _type]}), do: name
  defp name(name), do: name

  defp type({:"::", _, _} = annotated), do: annotated
  defp type({type, meta, _context}), do: {type, meta, []}

  defp parameter({:opts, _, _} = opts), do: quote(do: unquote(opts) \\ [])
  defp parameter(name), do: name

  @doc """
  The value of a result; raises its error.
  """
  @spec unwrap!(:ok | {:ok, value} | {:error, Exception.t()}) :: :ok | value when value: term
  def unwrap!(:ok), do: :ok
  def unwrap!({:ok, value}), do: value
  def unwrap!({:error, error}), do: raise(error)
end
