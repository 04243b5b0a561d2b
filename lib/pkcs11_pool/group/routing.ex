defmodule Pkcs11Pool.Group.Routing do
  @moduledoc false
  # Lets every function of `Pkcs11Pool` take the name of a group in place of a pool's. What that means for each is said here, and each must be here: a new one does not
  # compile before.

  alias Pkcs11Pool.Group.{Call, Table}

  # Any member will do, and where one certainly did nothing, another is asked.
  @any ~w(sign verify encrypt decrypt sign_many verify_many encrypt_many decrypt_many digest digest_key generate_random find_objects find_certificates get_attributes
          object_size public_key key_info token_info mechanisms wrap_key)a

  # A session of one member, for a process of this node.
  @session ~w(with_session sign_stream verify_stream digest_stream encrypt_stream decrypt_stream)a

  # Of the group as a whole.
  @group ~w(status await_ready)a

  # What makes or changes something on a token, or is a matter of one pool.
  @member ~w(generate_key generate_key_pair create_object copy_object set_attributes destroy_object import_private_key unwrap_key derive_key encapsulate decapsulate seed_random
             prepare login logout reload resize drain forget_keys)a

  @no_pool ~w(child_spec start_link)a

  @kinds Map.new(
           for {kind, names} <- [
                 any: @any,
                 session: @session,
                 group: @group,
                 member: @member,
                 no_pool: @no_pool
               ],
               name <- names,
               do: {name, kind}
         )

  defmacro __using__(_options), do: quote(do: @before_compile(unquote(__MODULE__)))

  defmacro __before_compile__(env) do
    for {name, arity} <- longest(Module.definitions_in(env.module, :def)),
        kind = kind!(env, name, arity),
        kind != :no_pool do
      [pool | rest] = parameters(env.module, {name, arity})

      quote do
        defoverridable [{unquote(name), unquote(arity)}]

        def unquote(name)(unquote(pool), unquote_splicing(rest)) when is_atom(unquote(pool)) do
          if Table.group?(unquote(pool)),
            do: Call.unquote(kind)(__MODULE__, unquote(pool), unquote(name), unquote(rest)),
            else: super(unquote_splicing([pool | rest]))
        end

        def unquote(name)(unquote_splicing([pool | rest])),
          do: super(unquote_splicing([pool | rest]))
      end
    end
  end

  # Those with defaults call the longest; the twins with `!` call theirs.
  defp longest(functions) do
    functions
    |> Enum.reject(fn {name, _arity} -> String.ends_with?(Atom.to_string(name), "!") end)
    |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))
    |> Enum.map(fn {name, arities} -> {name, Enum.max(arities)} end)
    |> Enum.sort()
  end

  defp kind!(env, name, arity) do
    Map.get(@kinds, name) ||
      raise CompileError,
        file: env.file,
        line: env.line,
        description:
          "#{name}/#{arity} is not in Pkcs11Pool.Group.Routing: say there what it does with a group"
  end

  # By their own names, which the documentation shows.
  defp parameters(module, {name, arity}) do
    {:v1, :def, _meta, [{_clause, arguments, _guards, _body} | _]} =
      Module.get_definition(module, {name, arity})

    for {argument, index} <- Enum.with_index(arguments) do
      case argument do
        {name, _meta, context} when is_atom(name) and is_atom(context) ->
          Macro.var(name, __MODULE__)

        _pattern ->
          Macro.var(:"argument#{index}", __MODULE__)
      end
    end
  end
end
