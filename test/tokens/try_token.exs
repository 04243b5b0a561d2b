# Tries the pool on one token, in this VM: `mix run --no-start test/tokens/try_token.exs NAME FOLDER FILE`. See script/test-tokens.

[name, dir, out] = System.argv()
Logger.configure(level: String.to_atom(System.get_env("PKCS11_POOL_LOG", "none")))
{:ok, _started} = Application.ensure_all_started(:pkcs11_pool)

{token, ^name} =
  List.keyfind(
    for({token, _} <- Pkcs11Pool.Test.Tokens.all(), do: {token, Atom.to_string(token)}),
    name,
    1
  )

:ok = Pkcs11Pool.Test.Tokens.Trial.run(token, dir, out)
