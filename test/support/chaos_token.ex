defmodule Pkcs11Pool.Test.ChaosToken do
  @moduledoc "A token behind a chaos module of its own, and PIN sources that a test can steer and count."

  alias Pkcs11Pool.Test.SoftHSM
  alias Pkcs11Pool.Testing.Chaos

  @doc "A new token behind a new chaos module: the token's map with `:chaos`. Stop the module with `Chaos.stop/1`."
  @spec new!(keyword) :: map
  def new!(opts \\ []) do
    opts |> SoftHSM.new_token!() |> wrap!()
  end

  @doc "A token behind a new chaos module."
  @spec wrap!(SoftHSM.token()) :: map
  def wrap!(token) do
    chaos = Chaos.start!(token.module, module_env: token.module_env, tmp_dir: SoftHSM.dir())
    Map.merge(token, %{module: chaos.module, module_env: chaos.module_env, chaos: chaos})
  end

  @doc "A test's context: a new token, whose module stops with the test."
  @spec for_test!() :: %{token: map, chaos: Chaos.t()}
  def for_test! do
    token = new!()
    ExUnit.Callbacks.on_exit(fn -> Chaos.stop(token.chaos) end)
    %{token: token, chaos: token.chaos}
  end

  @doc """
  Another chaos module around the token's real one, with which it shares `C_Initialize`, sessions and login: as where another library of the VM
  has initialized the module. It stops with the test.
  """
  @spec second_wrapper!(map) :: Chaos.t()
  def second_wrapper!(token) do
    [_, real] = Regex.run(~r/^module=(.*)$/m, File.read!(token.module <> ".conf"))
    opts = [copy: false, module_env: token.module_env, tmp_dir: SoftHSM.dir()]
    other = Chaos.start!(real, opts)
    ExUnit.Callbacks.on_exit(fn -> Chaos.stop(other) end)
    other
  end

  @doc "A source of a PIN that can be changed: an agent's pid."
  @spec source!(term) :: pid
  def source!(answer) do
    {:ok, agent} = Agent.start_link(fn -> {answer, 0} end)
    agent
  end

  @doc "What a source gives from now on; a function is called in the process that asks."
  @spec give(pid, term) :: :ok
  def give(source, answer), do: Agent.update(source, fn {_answer, asked} -> {answer, asked} end)

  @doc "How often a source was asked."
  @spec asked(pid) :: non_neg_integer
  def asked(source), do: Agent.get(source, &elem(&1, 1))

  @doc "The `:pin` option of a source."
  @spec pin(pid) :: {module, atom, [pid]}
  def pin(source), do: {__MODULE__, :ask, [source]}

  @doc false
  def ask(source) do
    case Agent.get_and_update(source, fn {answer, asked} -> {answer, {answer, asked + 1}} end) do
      answer when is_function(answer, 0) -> answer.()
      answer -> answer
    end
  end
end
