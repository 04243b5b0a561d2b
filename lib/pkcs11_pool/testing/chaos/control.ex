defmodule Pkcs11Pool.Testing.Chaos.Control do
  @moduledoc false
  # Sends commands to a chaos module: one line each over its Unix socket, or into the file that
  # the module executes when it is loaded, as long as it is not. The commands are listed in
  # native/chaos/src/command.rs.

  # The module answers at once, but a busy machine may not let it.
  @timeout 30_000

  # The longest answer is that of all functions with their counts.
  @socket_options [:binary, active: false, packet: :line, buffer: 65_536]

  # Every function of PKCS#11 3.2 but those that give function lists; known here, since the module
  # may not be loaded yet.
  @functions ~w(
    C_Initialize C_Finalize C_GetInfo C_GetSlotList C_GetSlotInfo C_GetTokenInfo
    C_GetMechanismList C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession
    C_CloseSession C_CloseAllSessions C_GetSessionInfo C_GetOperationState C_SetOperationState
    C_Login C_Logout C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize
    C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit C_FindObjects C_FindObjectsFinal
    C_EncryptInit C_Encrypt C_EncryptUpdate C_EncryptFinal C_DecryptInit C_Decrypt C_DecryptUpdate
    C_DecryptFinal C_DigestInit C_Digest C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit
    C_Sign C_SignUpdate C_SignFinal C_SignRecoverInit C_SignRecover C_VerifyInit C_Verify
    C_VerifyUpdate C_VerifyFinal C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate
    C_DecryptDigestUpdate C_SignEncryptUpdate C_DecryptVerifyUpdate C_GenerateKey
    C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey C_SeedRandom C_GenerateRandom
    C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent
    C_LoginUser C_SessionCancel C_MessageEncryptInit C_EncryptMessage C_EncryptMessageBegin
    C_EncryptMessageNext C_MessageEncryptFinal C_MessageDecryptInit C_DecryptMessage
    C_DecryptMessageBegin C_DecryptMessageNext C_MessageDecryptFinal C_MessageSignInit C_SignMessage
    C_SignMessageBegin C_SignMessageNext C_MessageSignFinal C_MessageVerifyInit C_VerifyMessage
    C_VerifyMessageBegin C_VerifyMessageNext C_MessageVerifyFinal C_EncapsulateKey C_DecapsulateKey
    C_VerifySignatureInit C_VerifySignature C_VerifySignatureUpdate C_VerifySignatureFinal
    C_GetSessionValidationFlags C_AsyncComplete C_AsyncGetID C_AsyncJoin C_WrapKeyAuthenticated
    C_UnwrapKeyAuthenticated
  )

  @type files :: %{
          required(:socket) => Path.t(),
          required(:init) => Path.t(),
          optional(atom) => term
        }

  @doc "The names of the functions that can be steered."
  @spec functions() :: [String.t(), ...]
  def functions, do: @functions

  @doc """
  The word for a function in a command; `*` for `:all`. Raises `ArgumentError` for what is no
  function.
  """
  @spec function!(atom | String.t()) :: String.t()
  def function!(:all), do: "*"

  def function!(function) when is_atom(function) or is_binary(function) do
    name = to_string(function)

    if name in @functions do
      name
    else
      raise ArgumentError,
            "expected the name of a PKCS#11 function, such as :C_Sign, or :all, got: #{inspect(function)}"
    end
  end

  @doc "Executes a command: now, or when the module is loaded."
  @spec command!(files, [term]) :: :ok
  def command!(files, words) do
    # Should the module be loaded just now, it may get the command in both ways; the id makes it
    # one.
    id = "#{System.pid()}-#{System.unique_integer([:positive])}"
    line = Enum.join(["once", id | words], " ")

    with :not_loaded <- send_line(files, line),
         :ok <- File.write!(files.init, line <> "\n", [:append]),
         :not_loaded <- send_line(files, line) do
      :ok
    else
      {:ok, _nothing} ->
        :ok

      {:error, message} ->
        raise ArgumentError, "the chaos module refuses #{inspect(words)}: #{message}"
    end
  end

  @doc "The answer of a loaded module to a command; `:not_loaded` as long as none is."
  @spec ask(files, [term]) :: {:ok, String.t()} | {:error, String.t()} | :not_loaded
  def ask(files, words), do: send_line(files, Enum.join(words, " "))

  @doc "The same, and raises if there is none."
  @spec ask!(files, [term]) :: String.t()
  def ask!(files, words) do
    case ask(files, words) do
      {:ok, answer} -> answer
      {:error, message} -> raise "#{hd(words)}: #{message}"
      :not_loaded -> raise "#{hd(words)}: the chaos module has not been loaded yet"
    end
  end

  @doc "What a command counts, by function; nothing as long as no module is loaded."
  @spec counts(files, command :: String.t()) :: %{String.t() => non_neg_integer}
  def counts(files, command) do
    case ask(files, [command]) do
      :not_loaded -> %{}
      {:ok, answer} -> Map.new(pairs(answer), fn {name, n} -> {name, String.to_integer(n)} end)
    end
  end

  @doc "An answer of the form `name=value name=value`."
  @spec pairs(String.t()) :: %{String.t() => String.t()}
  def pairs(answer) do
    for pair <- String.split(answer), into: %{} do
      [name, value] = String.split(pair, "=")
      {name, value}
    end
  end

  defp send_line(files, line) do
    case :gen_tcp.connect({:local, files.socket}, 0, @socket_options, @timeout) do
      {:ok, socket} ->
        try do
          exchange!(socket, line)
        after
          :gen_tcp.close(socket)
        end

      {:error, reason} when reason in [:enoent, :econnrefused] ->
        :not_loaded

      {:error, reason} ->
        raise "cannot reach the chaos module: #{:inet.format_error(reason)}"
    end
  end

  defp exchange!(socket, line) do
    with :ok <- :gen_tcp.send(socket, line <> "\n"),
         {:ok, answer} <- :gen_tcp.recv(socket, 0, @timeout) do
      case String.split(String.trim_trailing(answer, "\n"), " ", parts: 2) do
        ["ok"] -> {:ok, ""}
        ["ok", text] -> {:ok, text}
        ["error", message] -> {:error, message}
      end
    else
      {:error, reason} -> raise "no answer from the chaos module: #{:inet.format_error(reason)}"
    end
  end
end
