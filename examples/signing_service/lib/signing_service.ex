defmodule SigningService do
  @moduledoc "Shows the service: 64 payments, signed on the token and verified outside of it."

  def demo(count \\ 64) do
    key = System.get_env("HSM_KEY", "signing")
    :ok = Pkcs11Pool.await_ready(SigningService.HSM, 30_000)

    unless System.get_env("HSM_MODULE"),
      do: Pkcs11Pool.Testing.generate_keys!(SigningService.HSM, [{key, :p256}])

    public = Pkcs11Pool.public_key!(SigningService.HSM, key)

    1..count
    |> Task.async_stream(&sign_and_verify(&1, public), max_concurrency: 32, timeout: 60_000)
    |> Enum.each(fn {:ok, true} -> :ok end)

    %{signed: ^count, refused: 0, open: 0} = SigningService.Payments.counts()
    IO.puts("#{count} payments signed and verified")
  end

  defp sign_and_verify(number, public) do
    payment = "payment #{number}: 10.00 EUR"
    {:ok, signature} = SigningService.Payments.sign(payment)
    :public_key.verify(payment, :sha256, signature, public)
  end
end
