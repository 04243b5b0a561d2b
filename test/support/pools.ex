defmodule Pkcs11Pool.Test.Pools do
  @moduledoc "What tests see of a pool's inside: its processes, its native side, and whether everything has come to rest."

  alias Pkcs11Pool.{Native, Registry}
  alias Pkcs11Pool.Test.{Poll, SoftHSM}

  @doc "The pool's server."
  @spec server(term) :: pid
  def server(pool) do
    {:ok, server, _entry} = Registry.lookup(pool)
    server
  end

  @doc "The pool's supervisor."
  @spec supervisor(term) :: pid
  def supervisor(pool), do: Registry.whereis(:supervisor, pool)

  @doc "The processes of the pool's runners, which are none for `executor: :threads`."
  @spec runners(term) :: [pid]
  def runners(pool) do
    for {_id, pid, _type, _modules} <-
          DynamicSupervisor.which_children(Registry.via(:runners, pool)),
        do: pid
  end

  @doc "The snapshot of the native side, which knows more than `Pkcs11Pool.status/1`."
  @spec native_status(term) :: map
  def native_status(pool) do
    {:ok, _server, %{native: native}} = Registry.lookup(pool)
    {processes, threads} = Native.vacancies(native)
    Map.put(Native.status(native), :vacancies, processes + threads)
  end

  @doc "Waits until nothing runs, waits, opens or closes; then the snapshot."
  @spec drained!(term, non_neg_integer) :: map
  def drained!(pool, timeout \\ 10_000) do
    Poll.until(
      fn ->
        status = native_status(pool)

        if Enum.all?([:running, :waiting, :opening, :closing, :hung], &(status[&1] == 0)),
          do: status
      end,
      timeout
    )
  end

  @doc "Waits until the pool has as many runners as it may have sessions."
  @spec full_strength!(term, non_neg_integer) :: map
  def full_strength!(pool, timeout \\ 10_000) do
    Poll.until(
      fn ->
        status = native_status(pool)
        if status.vacancies == 0 and status.runners == status.size, do: status
      end,
      timeout
    )
  end

  @doc """
  Waits until the pool is at rest, holds its module up (see `SoftHSM.valve!/1`), and has so many callers get stuck in it: their tasks.
  """
  @spec stuck!(term, SoftHSM.token(), pos_integer, keyword) :: [Task.t()]
  def stuck!(pool, token, count, opts \\ []) do
    drained!(pool)
    SoftHSM.hold!(token)
    tasks = for _ <- 1..count, do: Task.async(fn -> large(pool, opts) end)
    # Granted a session is not enough: their runners must have taken them.
    Poll.until(fn -> native_status(pool).active == count end)
    tasks
  end

  @doc "Waits until so many operations have started: a session may be theirs for a while before."
  @spec await_active!(term, non_neg_integer) :: map
  def await_active!(pool, count) do
    Poll.until(fn ->
      status = native_status(pool)
      if status.active == count, do: status
    end)
  end

  @doc "An operation that is large enough to get stuck in a module that is held up; the digest otherwise."
  @spec large(term, keyword) :: {:ok, binary} | {:error, Pkcs11Pool.Error.t()}
  def large(pool, opts \\ []),
    do: Pkcs11Pool.digest(pool, :sha256, :binary.copy("x", 300_000), opts)

  @doc "A P-256 key pair of this label on the pool's token."
  @spec key_pair(term, String.t(), keyword, keyword) ::
          {:ok, {Pkcs11Pool.Object.t(), Pkcs11Pool.Object.t()}} | {:error, Pkcs11Pool.Error.t()}
  def key_pair(pool, label, extra \\ [], opts \\ []) do
    Pkcs11Pool.generate_key_pair(
      pool,
      :ec_key_pair_gen,
      [token: true, label: label, ec_params: :secp256r1, verify: true],
      [token: true, label: label, private: true, sign: true] ++ extra,
      opts
    )
  end

  @doc "The same; raises where it cannot be made."
  @spec key_pair!(term, String.t(), keyword) :: {Pkcs11Pool.Object.t(), Pkcs11Pool.Object.t()}
  def key_pair!(pool, label, extra \\ []) do
    {:ok, pair} = key_pair(pool, label, extra)
    pair
  end

  @doc "Makes a token key pair that signs, by this mechanism, with these attributes of the public key besides its label."
  @spec signing_pair!(term, String.t(), atom, keyword) ::
          {Pkcs11Pool.Object.t(), Pkcs11Pool.Object.t()}
  def signing_pair!(pool, label, mechanism, public) do
    Pkcs11Pool.generate_key_pair!(
      pool,
      mechanism,
      [token: true, label: label, verify: true] ++ public,
      token: true,
      label: label,
      private: true,
      sign: true
    )
  end

  @doc "Makes a small RSA token key pair, labelled \"rsa\", that signs and decrypts."
  @spec rsa_pair!(term) :: {Pkcs11Pool.Object.t(), Pkcs11Pool.Object.t()}
  def rsa_pair!(pool) do
    Pkcs11Pool.generate_key_pair!(
      pool,
      :rsa_pkcs_key_pair_gen,
      [token: true, label: "rsa", modulus_bits: 1024, verify: true, encrypt: true],
      token: true,
      label: "rsa",
      private: true,
      sign: true,
      decrypt: true
    )
  end
end
