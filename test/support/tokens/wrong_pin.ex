defmodule Pkcs11Pool.Test.Tokens.WrongPin do
  @moduledoc false
  # A wrong PIN reaches the token once, however many calls want the login. The chaos module is put around the token's own, to count the calls of C_Login.

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.Tokens.Features
  alias Pkcs11Pool.Testing.Chaos

  @calls 5

  @doc "Tries it; afterwards the right PIN must be good."
  @spec try_once(map) :: Features.result()
  def try_once(%{opts: opts, pin: pin} = target) do
    env = Keyword.get(opts, :module_env, %{})
    # The file itself: a copy of it might not find what belongs to it.
    chaos = Chaos.start!(opts[:module], module_env: env, copy: false)
    opts = Keyword.merge(opts, module: chaos.module, module_env: chaos.module_env)

    try do
      with :pass <- refuse(%{target | opts: opts, pin: wrong(pin)}, chaos),
           do: accept(%{target | opts: opts}, chaos)
    after
      Chaos.stop(chaos)
    end
  end

  # As long as the right one, of the same kind of characters.
  defp wrong(pin), do: String.reverse(pin)

  defp refuse(target, chaos) do
    with_pool(target, fn pool ->
      errors =
        1..@calls
        |> Task.async_stream(
          fn _ -> Pkcs11Pool.find_objects(pool, class: :private_key) end,
          timeout: 120_000,
          max_concurrency: @calls
        )
        |> Enum.map(fn {:ok, answer} -> answer end)

      later = Pkcs11Pool.find_objects(pool, class: :private_key)

      reasons =
        for({:error, %Error{reason: reason}} <- [later | errors], do: reason) |> Enum.uniq()

      tries = Chaos.calls(chaos, :C_Login)
      login = Pkcs11Pool.status(pool).login
      flags = flags(target)

      cond do
        tries != 1 -> {:fail, "C_Login was called #{tries} times; #{inspect(reasons)}"}
        reasons != [:pin_incorrect] -> {:fail, "the errors are #{inspect(reasons)}"}
        Enum.any?([later | errors], &match?({:ok, _}, &1)) -> {:fail, "a call succeeded"}
        login != :poisoned -> {:fail, "login is #{inspect(login)}"}
        :user_pin_locked in flags -> {:fail, "the PIN is locked"}
        true -> :pass
      end
    end)
  end

  # The pool itself says of its token only that the PIN is wrong.
  defp flags(%{opts: opts}) do
    {:ok, %{slots: slots}} =
      Pkcs11Pool.Token.list(Keyword.take(opts, [:module, :module_env, :module_args]))

    for %{token: %{flags: flags}} <- slots, flag <- flags, uniq: true, do: flag
  end

  defp accept(target, chaos) do
    before = Chaos.calls(chaos, :C_Login)

    with_pool(target, fn pool ->
      # Who has mended the PIN says so, rather than waiting until its source is asked again.
      :ok = Pkcs11Pool.login(pool, fn -> target.pin end)
      answer = Pkcs11Pool.find_objects(pool, class: :private_key)
      tries = Chaos.calls(chaos, :C_Login) - before
      violations = Chaos.violations(chaos)

      cond do
        not match?({:ok, _}, answer) -> {:fail, "the right PIN is no good: #{inspect(answer)}"}
        tries != 1 -> {:fail, "C_Login was called #{tries} times with the right PIN"}
        violations != [] -> {:fail, Enum.join(violations, "; ")}
        true -> :pass
      end
    end)
  end

  defp with_pool(target, fun) do
    pool = {__MODULE__, make_ref()}

    :ok = Features.start_pool(target, pool)

    try do
      fun.(pool)
    after
      Features.stop_pool(pool)
    end
  end
end
