defmodule Pkcs11Pool.Native.Library do
  @moduledoc false
  # For the calls of `Pkcs11Pool.Native` that need no pool, and may so be made where the native library could not be loaded. The VM raises then, with
  # their arguments in the stack trace, and these may be secret.

  alias Pkcs11Pool.Native

  @doc """
  What `call` returns, or the error that there is no native library.
  """
  @spec call((() -> result)) :: result | {:error, Native.error()} when result: term
  def call(call) do
    call.()
  rescue
    UndefinedFunctionError ->
      cause =
        "the native library of pkcs11_pool is not loaded; the log says why, when it was first used"

      {:error, {:interrupted, nil, nil, false, %{cause: cause}}}
  end
end
