defmodule Pkcs11Pool.Test.Tokens.WrongPin do
  @moduledoc false
  # A wrong PIN reaches the token once, however many calls want the login, and the right one is good afterwards. The chaos module is put around the token's own, to
  # count the calls of C_Login.

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.Tokens.Features
  alias Pkcs11Pool.Testing.Chaos

  @calls 5

  @doc "Tries it."
  @spec try_once(map) :: Features.result()
  def try_once(%{opts: opts, pin: pin} = target) do
    env = Keyword.get(opts, :module_env, %{})

    # For a module that closes files which are not its own (see the feature `files`): rather these than the socket of the chaos module.
    for _ <- 1..50, do: :file.open("/dev/null", [:read, :raw])
    # The file itself: a copy of it might not find what belongs to it.
    chaos = Chaos.start!(opts[:module], module_env: env, copy: false)
    opts = Keyword.merge(opts, module: chaos.module, module_env: chaos.module_env)
    pool = {__MODULE__, make_ref()}
    :ok = Features.start_pool(%{target | opts: opts, pin: wrong(pin)}, pool)

    with :pass <- refuse(pool, chaos),
         :pass <- unlocked(opts),
         do: accept(pool, chaos, pin)
  end

  # As long as the right one, of the same kind of characters.
  defp wrong(pin), do: String.reverse(pin)

  defp refuse(pool, chaos) do
    errors =
      1..@calls
      |> Task.async_stream(fn _ -> search(pool) end, timeout: 120_000, max_concurrency: @calls)
      |> Enum.map(fn {:ok, answer} -> answer end)

    answers = [search(pool) | errors]
    reasons = for({:error, %Error{reason: reason}} <- answers, do: reason) |> Enum.uniq()
    tries = Chaos.calls(chaos, :C_Login)
    login = Pkcs11Pool.status(pool).login

    cond do
      tries != 1 -> {:fail, "C_Login was called #{tries} times; #{inspect(reasons)}"}
      Enum.any?(answers, &match?({:ok, _}, &1)) -> {:fail, "a call succeeded"}
      reasons != [:pin_incorrect] -> {:fail, "the errors are #{inspect(reasons)}"}
      login != :poisoned -> {:fail, "login is #{inspect(login)}"}
      true -> :pass
    end
  end

  # The pool itself says of its token only that the PIN is wrong.
  defp unlocked(opts) do
    {:ok, %{slots: slots}} =
      Pkcs11Pool.Token.list(Keyword.take(opts, [:module, :module_env, :module_args]))

    locked = for %{token: %{flags: flags}} <- slots, :user_pin_locked in flags, do: :locked
    if locked == [], do: :pass, else: {:fail, "the PIN is locked"}
  end

  # Who has mended the PIN says so, rather than waiting until its source is asked again.
  defp accept(pool, chaos, pin) do
    before = Chaos.calls(chaos, :C_Login)
    :ok = Pkcs11Pool.login(pool, fn -> pin end)
    answer = search(pool)
    tries = Chaos.calls(chaos, :C_Login) - before
    violations = Chaos.violations(chaos)
    Chaos.stop(chaos)
    Features.stop_pool(pool)

    cond do
      not match?({:ok, _}, answer) -> {:fail, "the right PIN is no good: #{inspect(answer)}"}
      tries != 1 -> {:fail, "C_Login was called #{tries} times with the right PIN"}
      violations != [] -> {:fail, Enum.join(violations, "; ")}
      true -> :pass
    end
  end

  defp search(pool), do: Pkcs11Pool.find_objects(pool, class: :private_key)
end
