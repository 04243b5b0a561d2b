defmodule Pkcs11Pool.Bench.Workload do
  @moduledoc false
  # What is measured: signatures by a key, digests, or random bytes. Finds the key, or makes one if it may.

  alias Pkcs11Pool.Bench.Options
  alias Pkcs11Pool.CommandLine.Prompt
  alias Pkcs11Pool.{Error, Mechanism, Object}

  @enforce_keys [:name, :call]
  defstruct [:name, :call]

  @type t :: %__MODULE__{
          name: String.t(),
          call: (pool :: term -> :ok | {:ok, binary} | {:error, Error.t()})
        }

  @typedoc "What names a made key pair: told before it is made, so that it can be deleted whatever happens."
  @type made :: {:made, id :: binary}

  @label "pkcs11_pool-bench"
  @shown_keys 20
  @operation_timeout 30_000

  # What a key signs with unless the user says otherwise: the first that the token has.
  @by_key_type %{
    rsa: [:sha256_rsa_pkcs, :rsa_pkcs],
    ec: [:ecdsa],
    ec_edwards: [:eddsa],
    aes: [:aes_cmac],
    generic_secret: [:sha256_hmac],
    sha256_hmac: [:sha256_hmac]
  }

  @doc """
  The work that the options name. `ask`: somebody is there to choose among keys and to allow that one is made. It has been done once.
  """
  @spec prepare(pool :: term, Options.t(), ask :: boolean, tell :: (made -> term)) ::
          {:ok, t} | {:error, String.t() | Error.t()}
  def prepare(pool, options, ask, tell) do
    with {:ok, mechanisms} <- Pkcs11Pool.mechanisms(pool),
         {:ok, what} <- what(pool, options, ask),
         {:ok, what} <- made(pool, what, options, mechanisms, tell),
         {:ok, workload} <- workload(what, options, mechanisms),
         {:ok, _result} <- workload.call.(pool),
         do: {:ok, workload}
  end

  @doc "Deletes the key pair that a run has made: how many objects it was."
  @spec delete(pool :: term, id :: binary) :: {:ok, non_neg_integer} | {:error, Error.t()}
  def delete(pool, id) do
    with {:ok, objects} <- Pkcs11Pool.find_objects(pool, label: @label, id: id) do
      Enum.reduce_while(objects, {:ok, 0}, fn object, {:ok, count} ->
        case Pkcs11Pool.destroy_object(pool, object) do
          :ok -> {:cont, {:ok, count + 1}}
          error -> {:halt, error}
        end
      end)
    end
  end

  @doc "How a made key pair is named in messages."
  @spec name(id :: binary) :: String.t()
  def name(id), do: "#{inspect(@label)} with id #{Base.encode16(id, case: :lower)}"

  ## Which: {:key, object}, :make, :random or :digest

  defp what(_pool, %{make_keys: true}, _ask), do: {:ok, :make}

  defp what(pool, %{key: template} = options, ask) when template != nil do
    with {:ok, keys} <- signing_keys(pool, template, options.mechanism) do
      case keys do
        [] -> no_such_key(pool, options)
        [key] -> {:ok, {:key, key}}
        keys -> one_of(keys, ask)
      end
    end
  end

  defp what(pool, %{mechanism: nil}, true) do
    with {:ok, keys} <- signing_keys(pool, [], nil) do
      chosen =
        Prompt.choose(
          "What is to be measured?",
          choices(keys) ++
            [
              {"r", "no key: random bytes", :random},
              {"m", "an RSA key pair that is made on the token now, and deleted at the end", :ask}
            ]
        )

      allowed(chosen)
    end
  end

  defp what(_pool, %{mechanism: nil}, false), do: {:ok, :random}

  defp what(pool, %{mechanism: mechanism}, ask) do
    cond do
      digest?(mechanism) ->
        {:ok, :digest}

      ask ->
        with {:ok, keys} <- signing_keys(pool, [], mechanism) do
          make = {"m", "one that is made on the token now, and deleted at the end", :ask}
          allowed(Prompt.choose("Which key is to sign?", choices(keys) ++ [make]))
        end

      true ->
        {:error,
         "--mechanism #{inspect(mechanism)} needs a key: give --key, or --make-keys for one that is deleted at the end"}
    end
  end

  defp allowed({:ok, :ask}) do
    if Prompt.yes?(
         "This makes a key pair with the label #{inspect(@label)} on the token. Go on?"
       ),
       do: {:ok, :make},
       else: {:error, "nothing was made or measured"}
  end

  defp allowed({:ok, what}), do: {:ok, what}
  defp allowed(:none), do: {:error, "nothing was chosen"}

  defp one_of(keys, true),
    do: allowed(Prompt.choose("Several keys match --key. Which one?", choices(keys)))

  defp one_of(keys, false) do
    {:error,
     "--key: #{length(keys)} keys match: #{listed(keys)}. Name one by a URI, such as --key 'pkcs11:object=#{hd(keys).label};id=#{percent(hd(keys).id)}'"}
  end

  defp no_such_key(pool, options) do
    with {:ok, keys} <- signing_keys(pool, [], options.mechanism) do
      there = if keys == [], do: "there is none that signs", else: "there are #{listed(keys)}"

      hint =
        if options.pin == nil,
          do: ". Without a login (--no-pin) private keys are not seen",
          else: ""

      {:error,
       "--key: no key on the token matches that signs#{by(options.mechanism)}; #{there}#{hint}"}
    end
  end

  defp by(nil), do: ""
  defp by(mechanism), do: " by #{inspect(Mechanism.name(mechanism))}"

  defp choices(keys) do
    keys
    |> Enum.take(@shown_keys)
    |> Enum.with_index(1)
    |> Enum.map(fn {key, number} -> {Integer.to_string(number), described(key), {:key, key}} end)
  end

  defp listed(keys) do
    shown = keys |> Enum.take(@shown_keys) |> Enum.map_join(", ", &described/1)
    if length(keys) > @shown_keys, do: shown <> ", ...", else: shown
  end

  defp described(%Object{label: label, id: id, key_type: type}) do
    "#{inspect(label)} (#{type}, id #{if id == "", do: "empty", else: Base.encode16(id, case: :lower)})"
  end

  defp percent(id), do: for(<<byte <- id>>, into: "", do: "%" <> Base.encode16(<<byte>>))

  # Those of the class that the mechanism takes, else of both that can sign.
  defp signing_keys(pool, template, mechanism) do
    class = mechanism && Mechanism.class_for(:sign, mechanism)
    classes = if class, do: [class], else: [:private_key, :secret_key]
    classes = if template[:class], do: [template[:class]], else: classes

    Enum.reduce_while(classes, {:ok, []}, fn class, {:ok, found} ->
      template = template |> Keyword.delete(:class) |> Keyword.merge(class: class, sign: true)

      case Pkcs11Pool.find_objects(pool, template) do
        {:ok, keys} ->
          # One that the token does not describe has no name to be chosen by.
          keys = Enum.reject(keys, &(nil in [&1.id, &1.label]))
          {:cont, {:ok, found ++ Enum.sort_by(keys, &{&1.label, &1.id})}}

        error ->
          {:halt, error}
      end
    end)
  end

  ## Making a key

  defp made(pool, :make, options, mechanisms, tell) do
    mechanism = options.mechanism || :sha256_rsa_pkcs

    with {:ok, generate, public} <- generation(mechanism),
         :ok <- known(generate, :generate_key_pair, mechanisms),
         :ok <- known(mechanism, :sign, mechanisms),
         {:ok, strays} <- Pkcs11Pool.find_objects(pool, label: @label) do
      if strays != [] do
        IO.puts(
          "There are #{length(strays)} objects with the label #{inspect(@label)} on the token already. If no other run is under way, one that was " <>
            "killed has left them behind: delete them with your vendor's tool."
        )
      end

      id = :crypto.strong_rand_bytes(8)
      tell.({:made, id})
      shared = [token: true, label: @label, id: id]

      with {:ok, {_public, private}} <-
             Pkcs11Pool.generate_key_pair(
               pool,
               generate,
               shared ++ public ++ [verify: true],
               shared ++ [private: true, sensitive: true, sign: true]
             ) do
        IO.puts("Made the key pair #{name(id)}; it is deleted at the end.")
        {:ok, {:key, private}}
      end
    end
  end

  defp made(_pool, what, _options, _mechanisms, _tell), do: {:ok, what}

  defp generation(mechanism) do
    name = mechanism |> Mechanism.name() |> inspect()

    cond do
      Mechanism.ecdsa?(mechanism) ->
        {:ok, :ec_key_pair_gen, [ec_params: :secp256r1]}

      name =~ "rsa_" ->
        {:ok, :rsa_pkcs_key_pair_gen, [modulus_bits: 2048, public_exponent: 65_537]}

      true ->
        {:error,
         "--make-keys makes RSA and P-256 key pairs; for --mechanism #{name} name a key of yours with --key"}
    end
  end

  ## The call

  defp workload(:random, options, _mechanisms) do
    {:ok,
     %__MODULE__{
       name: "#{options.bytes} random bytes",
       call: &Pkcs11Pool.generate_random(&1, options.bytes, call_options())
     }}
  end

  defp workload(:digest, options, mechanisms) do
    mechanism = options.mechanism
    data = :crypto.strong_rand_bytes(options.bytes)

    with :ok <- known(mechanism, :digest, mechanisms) do
      {:ok,
       %__MODULE__{
         name: "digests of #{options.bytes} bytes by #{inspect(mechanism)}",
         call: &Pkcs11Pool.digest(&1, mechanism, data, call_options())
       }}
    end
  end

  defp workload({:key, %Object{id: "", label: ""}}, _options, _mechanisms),
    do:
      {:error,
       "--key: the key has neither label nor id, so that it could not be found again after a login"}

  defp workload({:key, key}, options, mechanisms) do
    with {:ok, mechanism} <- mechanism(key, options.mechanism, mechanisms),
         :ok <- known(mechanism, :sign, mechanisms) do
      data = :crypto.strong_rand_bytes(options.bytes)

      {:ok,
       %__MODULE__{
         name:
           "signatures of #{options.bytes} bytes by #{described(key)} with #{inspect(Mechanism.name(mechanism))}",
         call: &Pkcs11Pool.sign(&1, key, mechanism, data, call_options())
       }}
    end
  end

  defp call_options, do: [operation_timeout: @operation_timeout]

  defp mechanism(_key, mechanism, _mechanisms) when mechanism != nil, do: {:ok, mechanism}

  defp mechanism(key, nil, mechanisms) do
    case Enum.find(@by_key_type[key.key_type] || [], &(known(&1, :sign, mechanisms) == :ok)) do
      nil ->
        {:error,
         "--mechanism is missing: what a key of the type #{key.key_type} signs with here. The token signs with: #{signing(mechanisms, :sign)}"}

      mechanism ->
        {:ok, mechanism}
    end
  end

  defp digest?(mechanism),
    do:
      Mechanism.hash(mechanism) != nil and
        inspect(Mechanism.name(mechanism)) =~ ~r/^:(sha|md5|ripemd)[0-9_]*$/

  defp known(mechanism, flag, mechanisms) do
    code = Mechanism.code!(Mechanism.name(mechanism))

    if Enum.any?(mechanisms, &(Mechanism.code!(&1.mechanism) == code and flag in &1.flags)) do
      :ok
    else
      {:error,
       "--mechanism: the token does not have #{inspect(Mechanism.name(mechanism))} for #{flag}; it has: #{signing(mechanisms, flag)}"}
    end
  end

  defp signing(mechanisms, flag) do
    Enum.map_join(
      for(%{mechanism: name, flags: flags} <- mechanisms, flag in flags, do: name),
      ", ",
      &inspect/1
    )
  end
end
