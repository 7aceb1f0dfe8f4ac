# rclone: copies, multi-threaded transfers, checks, and names that need encoding.
export RCLONE_CONFIG=/dev/null RCLONE_CONFIG_S3_TYPE=s3 RCLONE_CONFIG_S3_PROVIDER=Other
export RCLONE_CONFIG_S3_ENDPOINT=$S3_ENDPOINT RCLONE_CONFIG_S3_ENV_AUTH=true

names=('with space.txt' 'a+b=c&d.txt' 'literal%2Fslash' '100%' '🎞 漢字.txt' "quote's \"both\".txt" 'plain.txt')
mkdir -p local/deep/er local/empty.d
for name in "${names[@]}"; do
    echo "content of $name" | tee "local/$name" >"local/deep/er/$name"
done
: >local/empty.txt
head -c 104857600 /dev/urandom >local/large.bin

rclone mkdir s3:rclone
rclone copy local s3:rclone/copy --multi-thread-streams 4 --multi-thread-cutoff 20Mi --s3-upload-cutoff 20Mi
rclone check local s3:rclone/copy
rclone check --download local s3:rclone/copy
diff <(cd local && find . -type f -printf '%P\n' | sort) <(rclone lsf -R --files-only s3:rclone/copy | sort)
rclone copyto --multi-thread-streams 4 --multi-thread-cutoff 20Mi s3:rclone/copy/large.bin back.bin
cmp local/large.bin back.bin
[[ $(rclone lsjson s3:rclone/copy/plain.txt) == *'"Size":21,'* ]]

# A copy within the service, then a synchronization that replaces and deletes.
rclone copy s3:rclone/copy s3:rclone/again --s3-copy-cutoff 20Mi
rclone check local s3:rclone/again
rm -r "local/deep" 'local/100%' local/large.bin
echo new >local/plain.txt
rclone sync local s3:rclone/again
rclone check --download local s3:rclone/again
[[ $(rclone lsf -R --files-only s3:rclone/again | wc -l) == $(find local -type f | wc -l) ]]
mkdir down
rclone copy s3:rclone/again down
rmdir local/empty.d
diff -r local down

# What is piped has no known length.
head -c 12000000 back.bin | rclone rcat s3:rclone/piped --s3-chunk-size 5Mi --streaming-upload-cutoff 100k
head -c 12000000 back.bin | cmp - <(rclone cat s3:rclone/piped)
curl --silent --fail "$(rclone link s3:rclone/again/plain.txt)" | cmp - local/plain.txt
rclone moveto s3:rclone/piped s3:rclone/moved
[[ $(rclone lsf --files-only s3:rclone) == moved ]]
rclone purge s3:rclone
[[ -z $(rclone lsd s3:) ]]
