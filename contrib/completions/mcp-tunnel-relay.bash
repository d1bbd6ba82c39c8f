# Completion of mcp-tunnel-relay for bash; generated from relay/config.def.

_mcp_tunnel_relay()
{
	local cur prev

	COMPREPLY=()
	cur=${COMP_WORDS[COMP_CWORD]}
	prev=${COMP_WORDS[COMP_CWORD - 1]}
	case $prev in
	--tls-cert|--tls-key|--state-dir|--config)
		COMPREPLY=($(compgen -f -- "$cur"))
		return
		;;
	--tls-min)
		COMPREPLY=($(compgen -W '1.3 1.2' -- "$cur"))
		return
		;;
	--agent-auth)
		COMPREPLY=($(compgen -W 'bearer none' -- "$cur"))
		return
		;;
	--log-level)
		COMPREPLY=($(compgen -W 'error warning notice info debug' -- "$cur"))
		return
		;;
	--listen|--public-url|--allowed-origin|--hold|--resume-grace|--keepalive|--max-request-bytes|--max-streams|--drain-timeout|--admin-listen)
		return
		;;
	tunnel)
		COMPREPLY=($(compgen -W 'add list rotate remove' -- "$cur"))
		return
		;;
	agent)
		COMPREPLY=($(compgen -W 'add list remove' -- "$cur"))
		return
		;;
	esac
	COMPREPLY=($(compgen -W 'tunnel agent --listen --tls-cert --tls-key --tls-min --behind-proxy --public-url --allowed-origin
		--state-dir --agent-auth --hold --resume-grace --keepalive --max-request-bytes --max-streams
		--drain-timeout --admin-listen --log-level --config --check-config --print-config --version --help' -- "$cur"))
}
complete -o filenames -F _mcp_tunnel_relay mcp-tunnel-relay
